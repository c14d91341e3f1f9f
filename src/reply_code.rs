//! The reply codes that mean success or a refusal for each command of a transaction.
//!
//! ```text
//!     command       success, exact codes    success, by the first digit
//!     MAIL          250                     2yz
//!     RCPT          250, 251                2yz
//!     DATA          354                     354
//!     body, BDAT    2yz                     2yz
//!     RSET          2yz                     2yz
//! ```
//!
//! The drop-in uses the exact codes of RFC 5321 4.3.2, as smtplib does. The engine interprets an
//! unknown code by its first digit (RFC 5321 4.2). Both count every 2yz reply after the body,
//! because the server has accepted the message.
//!
//! 4yz and 5yz are refusals. Any other code is not a valid reply to the command. After such a reply,
//! the state of the server is unknown, and the connection must be closed. A 2yz to MAIL or RCPT is
//! an exception: RSET ends the transaction.

use crate::diagnosis::Phase;

/// The codes that mean success for MAIL and RCPT.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SuccessCodes {
    /// The codes of RFC 5321 4.3.2.
    #[default]
    Exact,
    /// Any code with the right first digit (RFC 5321 4.2).
    FirstDigit,
}

/// Whether a code means success for the command of `phase`. In a phase before the first message, no
/// code does.
#[must_use]
pub fn succeeds(phase: Phase, code: i16, codes: SuccessCodes) -> bool {
    match (phase, codes) {
        (Phase::Mail, SuccessCodes::Exact) => code == 250,
        (Phase::Rcpt, SuccessCodes::Exact) => code == 250 || code == 251,
        (Phase::Data, _) => code == 354,
        (Phase::Mail | Phase::Rcpt | Phase::Body | Phase::Rset, _) => completes(code),
        (Phase::Connect | Phase::Hello | Phase::StartTls | Phase::Auth, _) => false,
    }
}

/// Whether a code is a refusal: 4yz or 5yz (RFC 5321 4.2.1).
#[must_use]
pub fn refuses(code: i16) -> bool {
    (400..=599).contains(&code)
}

/// Whether the state of the server is known after a reply with this code.
#[must_use]
pub fn leaves_state_known(phase: Phase, code: i16, codes: SuccessCodes) -> bool {
    // RFC 5321 4.2.1: a 2yz completes MAIL or RCPT, so a later RSET ends the transaction.
    let completed = matches!(phase, Phase::Mail | Phase::Rcpt) && completes(code);
    completed || refuses(code) || succeeds(phase, code, codes)
}

/// Whether a code is a positive completion reply, 2yz (RFC 5321 4.2.1).
fn completes(code: i16) -> bool {
    (200..=299).contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_its_own_success_codes() {
        let success = |phase, codes| {
            (-1..1000)
                .filter(|code| succeeds(phase, *code, codes))
                .collect::<Vec<i16>>()
        };
        let completion: Vec<i16> = (200..300).collect();
        use SuccessCodes::*;
        for codes in [Exact, FirstDigit] {
            assert_eq!(success(Phase::Data, codes), [354]);
            assert_eq!(success(Phase::Body, codes), completion);
            assert_eq!(success(Phase::Rset, codes), completion);
            assert!(success(Phase::Auth, codes).is_empty());
        }
        assert_eq!(success(Phase::Mail, Exact), [250]);
        assert_eq!(success(Phase::Rcpt, Exact), [250, 251]);
        assert_eq!(success(Phase::Mail, FirstDigit), completion);
        assert_eq!(success(Phase::Rcpt, FirstDigit), completion);
    }
}
