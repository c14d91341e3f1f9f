//! Hashes of the bodies that were signed last: a newsletter without merge fields in its body is
//! hashed once, though every copy has a header of its own.
//!
//! A body is known by comparing all of it, which takes a fifteenth of the time that its hash
//! takes; so a wrong hash cannot come out. It is kept only when it is seen for the second time:
//! bodies that differ, as most do, are not copied. What tells that is a fingerprint, a few octets
//! of the body, and where that is mistaken nothing but a copy is lost.

use std::sync::{Arc, Mutex};

use super::canonical::{Canonicalization, Hash, body_hash};

/// Bodies that are kept, and fingerprints of bodies seen once.
const KEPT: usize = 4;
const SEEN: usize = 16;

/// Octets of the longest body that is kept; so at most 16 MiB are held.
const LONGEST: usize = 4 << 20;

/// Octets of a shorter body take no longer to hash than to look up.
const SHORTEST: usize = 512;

/// Places of a body that its fingerprint holds.
const SAMPLES: usize = 8;

type Fingerprint = (Canonicalization, usize, [u8; SAMPLES]);

#[derive(Default)]
pub(super) struct BodyHashes {
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// The last used is the last.
    kept: Vec<(Fingerprint, Arc<[u8]>, Hash)>,
    seen: Vec<Fingerprint>,
}

impl BodyHashes {
    /// The hash of a body, looked up or made.
    pub(super) fn hash(&self, body: &[u8], form: Canonicalization) -> Hash {
        if !(SHORTEST..=LONGEST).contains(&body.len()) {
            return body_hash(body, form);
        }
        let fingerprint = fingerprint(body, form);
        // The comparison is done outside of the lock, and nobody waits for it.
        let candidate = self
            .memory
            .try_lock()
            .ok()
            .and_then(|mut memory| memory.find(fingerprint));
        if let Some((kept, hash)) = candidate
            && *kept == *body
        {
            return hash;
        }
        let hash = body_hash(body, form);
        if let Ok(mut memory) = self.memory.try_lock() {
            memory.note(fingerprint, body, hash);
        }
        hash
    }
}

impl Memory {
    fn find(&mut self, fingerprint: Fingerprint) -> Option<(Arc<[u8]>, Hash)> {
        let place = self
            .kept
            .iter()
            .position(|(known, ..)| *known == fingerprint)?;
        self.kept[place..].rotate_left(1);
        self.kept
            .last()
            .map(|(_, body, hash)| (Arc::clone(body), *hash))
    }

    fn note(&mut self, fingerprint: Fingerprint, body: &[u8], hash: Hash) {
        let Some(place) = self.seen.iter().position(|known| *known == fingerprint) else {
            push(&mut self.seen, fingerprint, SEEN);
            return;
        };
        self.seen.remove(place);
        self.kept.retain(|(known, ..)| *known != fingerprint);
        push(&mut self.kept, (fingerprint, body.into(), hash), KEPT);
    }
}

fn push<T>(list: &mut Vec<T>, item: T, most: usize) {
    if list.len() == most {
        list.remove(0);
    }
    list.push(item);
}

fn fingerprint(body: &[u8], form: Canonicalization) -> Fingerprint {
    // Merge fields stand near the beginning more often than anywhere else.
    let place = |number: usize| (body.len() - 1) * number * number / (SAMPLES * SAMPLES);
    let samples = std::array::from_fn(|number| body[place(number)]);
    (form, body.len(), samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Canonicalization = Canonicalization::Simple;

    fn kept(hashes: &BodyHashes) -> usize {
        hashes.memory.lock().unwrap().kept.len()
    }

    #[test]
    fn a_body_is_kept_when_it_comes_again() {
        let hashes = BodyHashes::default();
        let body = vec![b'x'; 4000];
        for round in 0..4 {
            assert_eq!(hashes.hash(&body, FORM), body_hash(&body, FORM));
            assert_eq!(kept(&hashes), usize::from(round > 0));
        }
    }

    #[test]
    fn bodies_of_one_fingerprint_are_told_apart() {
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
        assert_eq!(kept(&hashes), 1);
    }

    #[test]
    fn the_forms_are_told_apart() {
        let hashes = BodyHashes::default();
        let body = b"a  b \r\n".repeat(100);
        for _ in 0..3 {
            for form in [Canonicalization::Simple, Canonicalization::Relaxed] {
                assert_eq!(hashes.hash(&body, form), body_hash(&body, form));
            }
        }
        assert_eq!(kept(&hashes), 2);
    }

    #[test]
    fn it_is_bounded() {
        let hashes = BodyHashes::default();
        for round in 0..100 {
            let body = vec![b'x'; 1000 + round];
            hashes.hash(&body, FORM);
            hashes.hash(&body, FORM);
        }
        assert_eq!(kept(&hashes), KEPT);
        hashes.hash(&vec![b'x'; LONGEST + 1], FORM);
        hashes.hash(&vec![b'x'; LONGEST + 1], FORM);
        let memory = hashes.memory.lock().unwrap();
        assert!(memory.seen.len() <= SEEN);
        assert!(memory.kept.iter().all(|(_, body, _)| body.len() <= LONGEST));
    }
}
