//! Commands: to bytes; the one place that refuses line ends, controls and smuggled parameters.
//!
//! RFC 5321 4.1.2 gives the grammar. A line end inside a command would be a second command (SMTP
//! injection), so no control character at all passes here.

use crate::address::check_path;
use crate::error::Error;

/// How the commands of one transaction are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether SMTPUTF8 is in force for this transaction (RFC 6531).
    pub utf8: bool,
    /// Whether `from:` and `to:` are written in lower case, as smtplib does from 3.13 on.
    pub lower_case: bool,
}

/// Refuses a command line, given without its line end, that holds a control character.
///
/// # Errors
///
/// `Misuse` where it holds CR, LF, NUL or another control character.
pub fn check_command(text: &str) -> Result<(), Error> {
    // The usual case, at a tenth of the cost.
    if is_printable_ascii(text.as_bytes()) {
        return Ok(());
    }
    if text.contains(['\r', '\n']) {
        let escaped = text.replace('\n', "\\n").replace('\r', "\\r");
        return Err(Error::Misuse(format!(
            "command and arguments contain prohibited newline characters: {escaped}"
        )));
    }
    if text.contains(char::is_control) {
        let escaped = escape_controls(text);
        return Err(Error::Misuse(format!(
            "command and arguments contain prohibited control characters: {escaped}"
        )));
    }
    Ok(())
}

/// Refuses a name for EHLO, HELO or LHLO (a domain or an address literal) that is more than one
/// word; what `check_command` refuses is left to it.
///
/// # Errors
///
/// `Misuse` where it holds a space.
pub fn check_host_name(name: &str) -> Result<(), Error> {
    if name.contains(' ') {
        return Err(Error::Misuse(format!("host name contains a space: {name}")));
    }
    Ok(())
}

/// Writes the MAIL command (RFC 5321 4.1.1.2) behind what `out` holds.
///
/// `path` is the sender in angle brackets; the ESMTP parameters are sent in their order.
///
/// # Errors
///
/// `Misuse` where the path or a parameter would be more than it says, `NotAscii` where something
/// is not ASCII without SMTPUTF8; `out` is then as it was.
pub fn mail<P: AsRef<str>>(
    path: &str,
    parameters: &[P],
    style: Style,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let verb = if style.lower_case {
        "mail from:"
    } else {
        "mail FROM:"
    };
    write(verb, path, parameters, style, out)
}

/// Writes the RCPT command (RFC 5321 4.1.1.3); arguments and errors as for `mail`.
///
/// # Errors
///
/// As for `mail`.
pub fn rcpt<P: AsRef<str>>(
    path: &str,
    parameters: &[P],
    style: Style,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let verb = if style.lower_case {
        "rcpt to:"
    } else {
        "rcpt TO:"
    };
    write(verb, path, parameters, style, out)
}

fn write<P: AsRef<str>>(
    verb: &str,
    path: &str,
    parameters: &[P],
    style: Style,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let start = out.len();
    out.extend_from_slice(verb.as_bytes());
    out.extend_from_slice(path.as_bytes());
    for parameter in parameters {
        out.push(b' ');
        out.extend_from_slice(parameter.as_ref().as_bytes());
    }
    let checked = check_line(&out[start..], path, style);
    match checked {
        Ok(()) => out.extend_from_slice(b"\r\n"),
        Err(_) => out.truncate(start),
    }
    checked
}

fn check_line(line: &[u8], path: &str, style: Style) -> Result<(), Error> {
    if is_printable_ascii(line) {
        return check_path(path);
    }
    // It was put together from texts: nothing is lost.
    let text = String::from_utf8_lossy(line);
    check_command(&text)?;
    check_path(path)?;
    if !style.utf8 && !text.is_ascii() {
        return Err(Error::NotAscii(format!("{text}\r\n")));
    }
    Ok(())
}

/// Written without a way out of the loop, so that it looks at sixteen octets at a time.
fn is_printable_ascii(text: &[u8]) -> bool {
    !text
        .iter()
        .fold(false, |odd, octet| odd | !(b' '..=b'~').contains(octet))
}

fn escape_controls(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if character.is_control() {
            escaped.push_str(&format!("\\x{:02x}", u32::from(character)));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style {
        utf8: false,
        lower_case: false,
    };

    #[test]
    fn commands_stand_one_behind_the_other() {
        let mut out = Vec::new();
        mail("<a@b>", &["size=3", "BODY=8BITMIME"], STYLE, &mut out).unwrap();
        rcpt::<&str>(
            "<c@d>",
            &[],
            Style {
                lower_case: true,
                ..STYLE
            },
            &mut out,
        )
        .unwrap();
        assert_eq!(
            out,
            b"mail FROM:<a@b> size=3 BODY=8BITMIME\r\nrcpt to:<c@d>\r\n"
        );
    }

    #[test]
    fn a_refused_command_writes_nothing() {
        let mut out = b"before".to_vec();
        for (path, parameter) in [("<a@b>", "x\r\ny"), ("<a@b> X <c@d>", "y"), ("<é@b>", "z")] {
            rcpt(path, &[parameter], STYLE, &mut out).unwrap_err();
        }
        assert_eq!(out, b"before");
    }

    #[test]
    fn what_is_not_ascii_needs_smtputf8() {
        let mut out = Vec::new();
        let refused = mail::<&str>("<é@b>", &[], STYLE, &mut out);
        assert_eq!(
            refused,
            Err(Error::NotAscii("mail FROM:<é@b>\r\n".to_owned()))
        );
        mail::<&str>(
            "<é@b>",
            &[],
            Style {
                utf8: true,
                ..STYLE
            },
            &mut out,
        )
        .unwrap();
        assert_eq!(out, "mail FROM:<é@b>\r\n".as_bytes());
    }
}
