//! The encoding of commands. Only this module checks commands for line ends, control characters and
//! injected parameters.
//!
//! RFC 5321 4.1.2 gives the grammar. A line end inside a command would start a second command (SMTP
//! injection), so every control character is refused.

use crate::address::check_path;
use crate::error::Error;

/// The encoding and spelling of the commands of one transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether the transaction uses SMTPUTF8 (RFC 6531).
    pub utf8: bool,
    /// Whether `from:` and `to:` are written in lower case, as smtplib does since Python 3.13.
    pub lower_case: bool,
}

/// Checks a command line for control characters. `text` does not include the line end.
///
/// # Errors
///
/// `Misuse` if `text` contains CR, LF, NUL or another control character.
pub fn check_command(text: &str) -> Result<(), Error> {
    // Fast path: nearly every command is printable ASCII.
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

/// Checks that a name for EHLO, HELO or LHLO (a domain or an address literal) has no space.
///
/// This function does not check for control characters. `check_command` does.
///
/// # Errors
///
/// `Misuse` if the name contains a space.
pub fn check_host_name(name: &str) -> Result<(), Error> {
    if name.contains(' ') {
        return Err(Error::Misuse(format!("host name contains a space: {name}")));
    }
    Ok(())
}

/// Appends the MAIL command (RFC 5321 4.1.1.2) to `out`.
///
/// `path` is the sender in angle brackets. The ESMTP parameters keep their order.
///
/// # Errors
///
/// `Misuse` if the path or a parameter contains a forbidden character. `NotAscii` if one of them is
/// not ASCII and `style.utf8` is false. After an error `out` is unchanged.
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

/// Appends the RCPT command (RFC 5321 4.1.1.3) to `out`. `path` is the recipient in angle brackets.
/// The other arguments are those of `mail`.
///
/// # Errors
///
/// The errors are those of `mail`.
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
    // The line is valid UTF-8, so the lossy conversion replaces nothing.
    let text = String::from_utf8_lossy(line);
    check_command(&text)?;
    check_path(path)?;
    if !style.utf8 && !text.is_ascii() {
        return Err(Error::NotAscii(format!("{text}\r\n")));
    }
    Ok(())
}

/// Whether a text is printable ASCII. The loop has no early exit, so the compiler can turn it into
/// vector instructions that check sixteen bytes at a time.
fn is_printable_ascii(text: &[u8]) -> bool {
    !text
        .iter()
        .fold(false, |odd, byte| odd | !(b' '..=b'~').contains(byte))
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
    fn commands_are_appended() {
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
    fn a_path_beyond_ascii_needs_smtputf8() {
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
