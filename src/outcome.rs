//! Outcomes: the fate of each recipient, and of a message that has several.

use crate::error::Error;

/// What became of a message, or of one of its recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The server has the mail.
    Accepted,
    /// Refused for good.
    Refused,
    /// Refused for now.
    Deferred,
    /// The body went out and no valid reply came.
    Unknown,
    /// The recipients of a message differ.
    Partial,
    /// It could not be built, encoded or offered to this relay.
    Invalid,
    /// The relay could not be reached or would not have us, or the sender was closed first.
    NotAttempted,
}

impl Status {
    const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Refused,
        Self::Deferred,
        Self::Unknown,
        Self::Partial,
        Self::Invalid,
        Self::NotAttempted,
    ];

    /// The name that Python sees.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "ACCEPTED",
            Self::Refused => "REFUSED",
            Self::Deferred => "DEFERRED",
            Self::Unknown => "UNKNOWN",
            Self::Partial => "PARTIAL",
            Self::Invalid => "INVALID",
            Self::NotAttempted => "NOT_ATTEMPTED",
        }
    }

    /// The status of that name.
    ///
    /// # Errors
    ///
    /// `Misuse` where there is none.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        let status = Self::ALL.into_iter().find(|status| status.name() == name);
        status.ok_or_else(|| Error::Misuse(format!("no such status: {name}")))
    }
}

/// What a reply's code means for the recipient that it was the last word on (RFC 5321 4.2.1).
#[must_use]
pub fn recipient_status(code: i64) -> Status {
    match code.div_euclid(100) {
        2 => Status::Accepted,
        4 => Status::Deferred,
        5 => Status::Refused,
        _ => Status::Unknown,
    }
}

/// The status of a message, from those of its recipients: the one that they share, unknown where
/// any is unknown, else partial.
///
/// # Errors
///
/// `Misuse` where there is no recipient.
pub fn message_status(recipients: &[Status]) -> Result<Status, Error> {
    let Some(first) = recipients.first() else {
        return Err(Error::Misuse(
            "a message without recipients has no status".to_owned(),
        ));
    };
    Ok(if recipients.contains(&Status::Unknown) {
        Status::Unknown
    } else if recipients.iter().all(|status| status == first) {
        *first
    } else {
        Status::Partial
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_doubt_wins() {
        use Status::*;
        assert_eq!(message_status(&[Accepted, Accepted]), Ok(Accepted));
        assert_eq!(message_status(&[Accepted, Refused]), Ok(Partial));
        assert_eq!(message_status(&[Accepted, Refused, Unknown]), Ok(Unknown));
        assert!(message_status(&[]).is_err());
    }

    #[test]
    fn every_name_is_read_back() {
        for status in Status::ALL {
            assert_eq!(Status::from_name(status.name()), Ok(status));
        }
        assert!(Status::from_name("accepted").is_err());
    }

    #[test]
    fn the_first_digit_decides() {
        let statuses = [250, 299, 451, 550, 354, -1].map(recipient_status);
        use Status::*;
        assert_eq!(
            statuses,
            [Accepted, Accepted, Deferred, Refused, Unknown, Unknown]
        );
    }
}
