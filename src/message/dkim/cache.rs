//! A cache of body hashes. If the body of a newsletter has no merge fields, all of its messages
//! have the same body, although each message has its own header. With the cache, this body is not
//! hashed again for each message.
//!
//! A lookup compares the whole body with the stored body, so it never returns a wrong hash. The
//! comparison takes a fifteenth of the time of hashing. Storing a body means copying it, which
//! takes time, and most bodies occur only once. So a body is stored only when it is signed for the
//! second time. The cache recognises a repeated body by its fingerprint (the length and a few bytes
//! of the body). If two different bodies have the same fingerprint, the only cost is one
//! unnecessary copy.

use std::sync::{Arc, Mutex};

use super::canonical::{Canonicalization, Sha256Hash, body_hash};

/// The maximum number of stored bodies.
const STORED: usize = 4;
/// The maximum number of fingerprints of bodies that were signed once.
const SEEN: usize = 16;

/// The maximum length of a stored body, in bytes. Longer bodies are always hashed. [`STORED`]
/// bodies of this length need 16 MiB in total.
const LONGEST: usize = 4 << 20;

/// The minimum length of a stored body, in bytes. Shorter bodies are always hashed, because hashing
/// them is faster than a lookup.
const SHORTEST: usize = 512;

/// The number of bytes of a body that its fingerprint contains.
const SAMPLES: usize = 8;

type Fingerprint = (Canonicalization, usize, [u8; SAMPLES]);

#[derive(Default)]
pub(super) struct BodyHashes {
    cache: Mutex<HashCache>,
}

#[derive(Default)]
struct HashCache {
    /// The stored bodies and their hashes, ordered by use. The most recently used body is the last.
    stored: Vec<(Fingerprint, Arc<[u8]>, Sha256Hash)>,
    seen: Vec<Fingerprint>,
}

impl BodyHashes {
    /// Returns the hash of a body, from the cache or computed.
    pub(super) fn hash(&self, body: &[u8], form: Canonicalization) -> Sha256Hash {
        if !(SHORTEST..=LONGEST).contains(&body.len()) {
            return body_hash(body, form);
        }
        let fingerprint = fingerprint(body, form);
        // The lock is not held while the bodies are compared. If another thread holds the lock,
        // this thread does not wait: it computes the hash.
        let found = self
            .cache
            .try_lock()
            .ok()
            .and_then(|mut cache| cache.find(fingerprint));
        if let Some((stored, hash)) = found
            && *stored == *body
        {
            return hash;
        }
        let hash = body_hash(body, form);
        if let Ok(mut cache) = self.cache.try_lock() {
            cache.remember(fingerprint, body, hash);
        }
        hash
    }
}

impl HashCache {
    fn find(&mut self, fingerprint: Fingerprint) -> Option<(Arc<[u8]>, Sha256Hash)> {
        let index = self
            .stored
            .iter()
            .position(|(other, ..)| *other == fingerprint)?;
        self.stored[index..].rotate_left(1);
        self.stored
            .last()
            .map(|(_, body, hash)| (Arc::clone(body), *hash))
    }

    fn remember(&mut self, fingerprint: Fingerprint, body: &[u8], hash: Sha256Hash) {
        let Some(index) = self.seen.iter().position(|other| *other == fingerprint) else {
            push(&mut self.seen, fingerprint, SEEN);
            return;
        };
        self.seen.remove(index);
        self.stored.retain(|(other, ..)| *other != fingerprint);
        push(&mut self.stored, (fingerprint, body.into(), hash), STORED);
    }
}

fn push<T>(list: &mut Vec<T>, item: T, capacity: usize) {
    if list.len() == capacity {
        list.remove(0);
    }
    list.push(item);
}

fn fingerprint(body: &[u8], form: Canonicalization) -> Fingerprint {
    // Bodies differ mostly near their start, because most merge fields are there. So most samples
    // come from there.
    let index = |number: usize| (body.len() - 1) * number * number / (SAMPLES * SAMPLES);
    let samples = std::array::from_fn(|number| body[index(number)]);
    (form, body.len(), samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Canonicalization = Canonicalization::Simple;

    fn stored(hashes: &BodyHashes) -> usize {
        hashes.cache.lock().unwrap().stored.len()
    }

    #[test]
    fn a_repeated_body_is_stored() {
        let hashes = BodyHashes::default();
        let body = vec![b'x'; 4000];
        for round in 0..4 {
            assert_eq!(hashes.hash(&body, FORM), body_hash(&body, FORM));
            assert_eq!(stored(&hashes), usize::from(round > 0));
        }
    }

    #[test]
    fn bodies_with_the_same_fingerprint_are_distinguished() {
        let hashes = BodyHashes::default();
        let mut body = vec![b'x'; 4000];
        for round in 0..200u8 {
            body[3] = round % 3;
            assert_eq!(
                fingerprint(&body, FORM),
                fingerprint(&vec![b'x'; 4000], FORM)
            );
            assert_eq!(hashes.hash(&body, FORM), body_hash(&body, FORM));
        }
        assert_eq!(stored(&hashes), 1);
    }

    #[test]
    fn canonicalizations_are_distinguished() {
        let hashes = BodyHashes::default();
        let body = b"a  b \r\n".repeat(100);
        for _ in 0..3 {
            for form in [Canonicalization::Simple, Canonicalization::Relaxed] {
                assert_eq!(hashes.hash(&body, form), body_hash(&body, form));
            }
        }
        assert_eq!(stored(&hashes), 2);
    }

    #[test]
    fn the_cache_is_bounded() {
        let hashes = BodyHashes::default();
        for round in 0..100 {
            let body = vec![b'x'; 1000 + round];
            hashes.hash(&body, FORM);
            hashes.hash(&body, FORM);
        }
        assert_eq!(stored(&hashes), STORED);
        hashes.hash(&vec![b'x'; LONGEST + 1], FORM);
        hashes.hash(&vec![b'x'; LONGEST + 1], FORM);
        let cache = hashes.cache.lock().unwrap();
        assert!(cache.seen.len() <= SEEN);
        assert!(
            cache
                .stored
                .iter()
                .all(|(_, body, _)| body.len() <= LONGEST)
        );
    }
}
