//! Python's formatting with `%`, such as `"Dear %s" % name`.

use num_bigint::Sign;

use super::budget::DIGITS;
use super::display::{Printer, quote};
use super::item::look_up;
use super::number::{Number, truncated};
use super::value::Value;
use crate::message::RowError;

/// One conversion `%…`.
#[derive(Default)]
struct Directive {
    alternate: bool,
    left: bool,
    plus: bool,
    blank: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

/// The values to format.
struct Values<'format> {
    /// The right operand of `%`.
    given: &'format Value,
    items: &'format [Value],
    next: usize,
    uses_names: bool,
}

/// Formats text or markup. Values in markup are escaped.
pub(super) fn format(
    template: &Value,
    given: &Value,
    printer: &mut Printer<'_>,
) -> Result<Value, RowError> {
    let text = printer.text(template)?;
    let items = match given {
        Value::Tuple(sequence) => &sequence.items[..],
        value => std::slice::from_ref(value),
    };
    let mut values = Values {
        given,
        items,
        next: 0,
        uses_names: false,
    };
    let mut out = String::new();
    let mut rest = &*text;
    while let Some(at) = rest.find('%') {
        printer.budget.write(at)?;
        out.push_str(&rest[..at]);
        rest = directive(&rest[at + 1..], &mut values, template, printer, &mut out)?;
    }
    printer.budget.write(rest.len())?;
    out.push_str(rest);
    // As in Python, a right operand that supports `value[key]` counts as a mapping, unless it is a
    // tuple or a string. Unused entries of a mapping are not an error.
    let may_be_left = matches!(
        given,
        Value::Dict(_) | Value::List(_) | Value::Undefined(_) | Value::Absent(_)
    );
    if values.next < items.len() && !may_be_left {
        return Err(RowError::new(
            "not all arguments converted during string formatting",
        ));
    }
    Ok(match template {
        Value::Markup(_) => Value::Markup(out.into()),
        _ => Value::from(out),
    })
}

/// Writes the value of one directive and returns the text after the directive.
fn directive<'text>(
    text: &'text str,
    values: &mut Values<'_>,
    template: &Value,
    printer: &mut Printer<'_>,
    out: &mut String,
) -> Result<&'text str, RowError> {
    let mut rest = text;
    let mut named = None;
    if let Some(inside) = rest.strip_prefix('(') {
        let end = key_end(inside).ok_or_else(|| RowError::new("incomplete format key"))?;
        named = Some(values.named(&inside[..end], printer)?);
        rest = &inside[end + 1..];
    }
    let mut directive = Directive::default();
    rest = directive.flags(rest);
    rest = directive.sizes(rest, values)?;
    rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
    let conversion = rest
        .chars()
        .next()
        .ok_or_else(|| RowError::new("incomplete format"))?;
    rest = &rest[conversion.len_utf8()..];
    let piece = if conversion == '%' {
        "%".to_owned()
    } else {
        let value = match named {
            Some(value) => value,
            None => values.next()?,
        };
        directive.convert(conversion, &value, template.is_markup(), printer)?
    };
    let missing = directive.width.saturating_sub(piece.chars().count());
    printer.budget.write(piece.len().saturating_add(missing))?;
    directive.pad(&piece, missing, conversion, out);
    Ok(rest)
}

/// Returns the position of the parenthesis that ends a key.
fn key_end(text: &str) -> Option<usize> {
    let mut open = 1;
    text.char_indices().find_map(|(at, character)| {
        open += match character {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        (open == 0).then_some(at)
    })
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value, RowError> {
        if self.uses_names {
            return Err(RowError::new("not enough arguments for format string"));
        }
        let value = self.items.get(self.next).cloned();
        self.next += 1;
        value.ok_or_else(|| RowError::new("not enough arguments for format string"))
    }

    fn named(&mut self, name: &str, printer: &mut Printer<'_>) -> Result<Value, RowError> {
        let Value::Dict(dict) = self.given else {
            return Err(RowError::new("format requires a mapping"));
        };
        self.uses_names = true;
        let found = look_up(&dict.entries, &Value::from(name), printer.budget)?;
        let missing = || {
            let mut message = String::new();
            quote(name, &mut message);
            RowError::new(message)
        };
        found.cloned().ok_or_else(missing)
    }
}

impl Directive {
    fn flags<'text>(&mut self, text: &'text str) -> &'text str {
        for (at, character) in text.char_indices() {
            match character {
                '#' => self.alternate = true,
                '-' => self.left = true,
                '+' => self.plus = true,
                ' ' => self.blank = true,
                '0' => self.zero = true,
                _ => return &text[at..],
            }
        }
        ""
    }

    fn sizes<'text>(
        &mut self,
        text: &'text str,
        values: &mut Values<'_>,
    ) -> Result<&'text str, RowError> {
        let (width, mut rest) = size(text, values)?;
        self.left |= width < 0;
        self.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
        if let Some(after) = rest.strip_prefix('.') {
            let (precision, after) = size(after, values)?;
            self.precision = Some(usize::try_from(precision).unwrap_or(0));
            rest = after;
        }
        Ok(rest)
    }

    fn convert(
        &self,
        conversion: char,
        value: &Value,
        is_markup: bool,
        printer: &mut Printer<'_>,
    ) -> Result<String, RowError> {
        match conversion {
            's' | 'r' | 'a' => self.text(conversion, value, is_markup, printer),
            'c' => character(value),
            'd' | 'i' | 'u' | 'o' | 'x' | 'X' => self.integer(conversion, value, printer),
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => self.float(conversion, value),
            _ => Err(RowError::new(format!(
                "unsupported format character {conversion:?}"
            ))),
        }
    }

    fn text(
        &self,
        conversion: char,
        value: &Value,
        is_markup: bool,
        printer: &mut Printer<'_>,
    ) -> Result<String, RowError> {
        let mut plain = String::new();
        match conversion {
            's' if is_markup => printer.escape(value, &mut plain)?,
            's' => printer.str(value, &mut plain)?,
            _ => printer.repr(value, &mut plain)?,
        }
        if conversion != 's' && is_markup {
            let repr = Value::from(std::mem::take(&mut plain));
            printer.escape(&repr, &mut plain)?;
        }
        if conversion == 'a' {
            let escape = |character: char| {
                if character.is_ascii() {
                    String::from(character)
                } else {
                    crate::printable::escaped(character)
                }
            };
            plain = plain.chars().map(escape).collect();
        }
        Ok(match self.precision {
            Some(precision) => plain.chars().take(precision).collect(),
            None => plain,
        })
    }

    fn integer(
        &self,
        conversion: char,
        value: &Value,
        printer: &mut Printer<'_>,
    ) -> Result<String, RowError> {
        let is_decimal = matches!(conversion, 'd' | 'i' | 'u');
        let value = match value {
            Value::Float(value) if is_decimal && value.is_finite() => truncated(*value),
            value => value.as_index().ok_or_else(|| {
                let name = value.type_name();
                RowError::new(format!(
                    "%{conversion} format: a number is required, not {name}"
                ))
            })?,
        };
        let magnitude = value.magnitude();
        let (prefix, mut digits) = match conversion {
            'o' => ("0o", magnitude.to_str_radix(8)),
            'x' => ("0x", magnitude.to_str_radix(16)),
            'X' => ("0X", magnitude.to_str_radix(16).to_uppercase()),
            _ => ("", printer.digits(&magnitude.clone().into())?),
        };
        let zeros = self.precision.unwrap_or(0).saturating_sub(digits.len());
        printer.budget.write(zeros)?;
        digits.insert_str(0, &"0".repeat(zeros));
        let prefix = if self.alternate { prefix } else { "" };
        let sign = self.sign(value.sign() == Sign::Minus);
        Ok(format!("{sign}{prefix}{digits}"))
    }

    fn sign(&self, is_negative: bool) -> &'static str {
        match (is_negative, self.plus, self.blank) {
            (true, ..) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            _ => "",
        }
    }

    fn float(&self, conversion: char, value: &Value) -> Result<String, RowError> {
        let value = match Number::of(value) {
            Some(Number::Float(value)) => value,
            Some(Number::Small(value)) => super::number::to_float(&value.into(), 0),
            Some(Number::Big(value)) => super::number::to_float(&value, 0),
            None => {
                let name = value.type_name();
                return Err(RowError::new(format!("must be real number, not {name}")));
            }
        };
        let precision = self.precision.unwrap_or(6);
        if precision > DIGITS {
            return Err(RowError::new("precision too big"));
        }
        let magnitude = value.abs();
        let digits = match conversion.to_ascii_lowercase() {
            _ if !value.is_finite() => if value.is_nan() { "nan" } else { "inf" }.to_owned(),
            'f' => format!("{magnitude:.precision$}"),
            'e' => scientific(magnitude, precision),
            _ => general(magnitude, precision.max(1), self.alternate),
        };
        let digits = if conversion.is_ascii_uppercase() {
            digits.to_uppercase()
        } else {
            digits
        };
        let sign = self.sign(value.is_sign_negative() && !value.is_nan());
        Ok(format!("{sign}{digits}"))
    }

    fn pad(&self, piece: &str, missing: usize, conversion: char, out: &mut String) {
        let fill = |character: &str| character.repeat(missing);
        let is_number = !matches!(conversion, 's' | 'r' | 'a' | 'c' | '%');
        let is_finite = !piece.ends_with(['n', 'f', 'N', 'F']) || matches!(conversion, 'x' | 'X');
        if self.left {
            out.push_str(piece);
            out.push_str(&fill(" "));
        } else if self.zero && is_number && is_finite {
            let digits = piece.trim_start_matches(['-', '+', ' ']);
            let prefixed = ["0x", "0X", "0o"]
                .iter()
                .any(|prefix| digits.starts_with(prefix));
            let after = piece.len() - digits.len() + if prefixed { 2 } else { 0 };
            out.push_str(&piece[..after]);
            out.push_str(&fill("0"));
            out.push_str(&piece[after..]);
        } else {
            out.push_str(&fill(if self.zero && is_number { "0" } else { " " }));
            out.push_str(piece);
        }
    }
}

/// Parses a width or precision (a number or `*`). Returns its value and the text that follows.
fn size<'text>(text: &'text str, values: &mut Values<'_>) -> Result<(i64, &'text str), RowError> {
    if let Some(rest) = text.strip_prefix('*') {
        let index = values.next()?.as_index();
        let size = index.and_then(|index| i64::try_from(&index).ok());
        return Ok((size.ok_or_else(|| RowError::new("* wants int"))?, rest));
    }
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let size = match end {
        0 => 0,
        _ => text[..end]
            .parse()
            .map_err(|_| RowError::new("width too big"))?,
    };
    Ok((size, &text[end..]))
}

fn character(value: &Value) -> Result<String, RowError> {
    if let Some(text) = value.as_text().filter(|text| text.chars().count() == 1) {
        return Ok(text.to_string());
    }
    let code = value
        .as_index()
        .and_then(|index| u32::try_from(&index).ok());
    let found = code.and_then(char::from_u32).map(String::from);
    found.ok_or_else(|| RowError::new("%c requires int or char"))
}

/// Formats a float as C's `%e` does. The exponent has two digits or more.
fn scientific(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// Formats a float as C's `%g` does: like `%e` if the exponent is below -4, or if it is equal to or
/// above the precision. Otherwise the format is like `%f`. Trailing zeros are removed unless `#` is
/// given.
fn general(value: f64, precision: usize, keeps_zeros: bool) -> String {
    let text = scientific(value, precision - 1);
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let place: i64 = exponent.parse().unwrap_or(0);
    let cut = |digits: &str| {
        if digits.contains('.') && !keeps_zeros {
            digits
                .trim_end_matches('0')
                .trim_end_matches('.')
                .to_owned()
        } else {
            digits.to_owned()
        }
    };
    if place < -4 || usize::try_from(place).is_ok_and(|place| place >= precision) {
        return format!("{}e{exponent}", cut(digits));
    }
    let behind = i64::try_from(precision).unwrap_or(i64::MAX) - 1 - place;
    let behind = usize::try_from(behind).unwrap_or(0);
    cut(&format!("{value:.behind$}"))
}
