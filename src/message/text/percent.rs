//! Python's formatting with `%`, such as `"Dear %s" % name`.

use std::borrow::Cow;

use minijinja::{Error, State};

use super::display::{escaped, repr, text};
use super::operator::{present, string};
use super::value::{Number, Value, dict_in, error, float_of, integer_of, list_of, truncated};

type Result<T> = std::result::Result<T, Error>;

/// The error about a format and its values. Python's texts for it differ between its versions.
fn unfit() -> Error {
    error("the values do not fit the directives of the format")
}

/// The maximum precision of a float.
const PRECISION: usize = 4300;

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
pub(super) fn format(state: &State<'_, '_>, template: &Value, given: &Value) -> Result<Value> {
    let text = text(state, template)?;
    let items = match list_of(given) {
        Some(list) if list.is_tuple => &list.items[..],
        _ => std::slice::from_ref(given),
    };
    for item in items {
        present(item)?;
    }
    let mut values = Values {
        given,
        items,
        next: 0,
        uses_names: false,
    };
    let mut out = String::new();
    let mut rest = &*text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = directive(
            state,
            &rest[at + 1..],
            &mut values,
            template.is_safe(),
            &mut out,
        )?;
    }
    out.push_str(rest);
    // As in Python, a right operand that supports `value[key]` counts as a mapping, unless it is a
    // tuple or a string. Unused entries of a mapping are not an error.
    let is_mapping = dict_in(given).is_some() || list_of(given).is_some_and(|list| !list.is_tuple);
    if values.next < items.len() && !is_mapping {
        return Err(unfit());
    }
    Ok(string(out, template.is_safe()))
}

/// Writes the value of one directive and returns the text after the directive.
fn directive<'text>(
    state: &State<'_, '_>,
    text: &'text str,
    values: &mut Values<'_>,
    is_markup: bool,
    out: &mut String,
) -> Result<&'text str> {
    let mut rest = text;
    let mut named = None;
    if let Some(inside) = rest.strip_prefix('(') {
        let end = key_end(inside).ok_or_else(unfit)?;
        named = Some(values.named(&inside[..end])?);
        rest = &inside[end + 1..];
    }
    let mut directive = Directive::default();
    rest = directive.flags(rest);
    rest = directive.sizes(rest, values)?;
    rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
    let conversion = rest.chars().next().ok_or_else(unfit)?;
    rest = &rest[conversion.len_utf8()..];
    // The width and the precision cost fuel before their spaces and digits are written.
    let size = directive
        .width
        .saturating_add(directive.precision.unwrap_or(0));
    state.consume_fuel(1 + size as u64 / 16)?;
    let piece = if conversion == '%' {
        "%".to_owned()
    } else {
        let value = match named {
            Some(value) => value,
            None => values.next()?,
        };
        directive.convert(state, conversion, &value, is_markup)?
    };
    let missing = directive.width.saturating_sub(piece.chars().count());
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
    fn next(&mut self) -> Result<Value> {
        let value = self
            .items
            .get(self.next)
            .filter(|_| !self.uses_names)
            .cloned();
        self.next += 1;
        value.ok_or_else(unfit)
    }

    fn named(&mut self, name: &str) -> Result<Value> {
        let Some(dict) = dict_in(self.given) else {
            return Err(unfit());
        };
        self.uses_names = true;
        let found = dict.get(&Value::from(name)).cloned();
        found.iter().try_for_each(present)?;
        found.ok_or_else(unfit)
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

    fn sizes<'text>(&mut self, text: &'text str, values: &mut Values<'_>) -> Result<&'text str> {
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
        state: &State<'_, '_>,
        conversion: char,
        value: &Value,
        is_markup: bool,
    ) -> Result<String> {
        match conversion {
            's' | 'r' | 'a' => self.text(state, conversion, value, is_markup),
            'c' => character(value),
            'd' | 'i' | 'u' | 'o' | 'x' | 'X' => self.integer(conversion, value),
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => self.float(conversion, value),
            _ => Err(unfit()),
        }
    }

    fn text(
        &self,
        state: &State<'_, '_>,
        conversion: char,
        value: &Value,
        is_markup: bool,
    ) -> Result<String> {
        let mut plain = String::new();
        if conversion == 's' {
            let shown = match is_markup {
                true => escaped(state, value)?,
                false => text(state, value)?,
            };
            plain.push_str(&shown);
        } else {
            repr(state, value, &mut plain)?;
            if is_markup {
                let unescaped = Value::from(plain.as_str());
                plain = escaped(state, &unescaped).map(Cow::into_owned)?;
            }
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

    fn integer(&self, conversion: char, value: &Value) -> Result<String> {
        let float = float_of(value).filter(|_| matches!(conversion, 'd' | 'i' | 'u'));
        let number = float
            .map_or_else(|| integer_of(value), truncated)
            .ok_or_else(unfit)?;
        let magnitude = number.unsigned_abs();
        let (prefix, mut digits) = match conversion {
            'o' => ("0o", format!("{magnitude:o}")),
            'x' => ("0x", format!("{magnitude:x}")),
            'X' => ("0X", format!("{magnitude:X}")),
            _ => ("", magnitude.to_string()),
        };
        let zeros = self.precision.unwrap_or(0).saturating_sub(digits.len());
        digits.insert_str(0, &"0".repeat(zeros));
        let prefix = if self.alternate { prefix } else { "" };
        Ok(format!("{}{prefix}{digits}", self.sign(number < 0)))
    }

    fn sign(&self, is_negative: bool) -> &'static str {
        match (is_negative, self.plus, self.blank) {
            (true, ..) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            _ => "",
        }
    }

    fn float(&self, conversion: char, value: &Value) -> Result<String> {
        let number = Number::of(value).map(Number::float);
        let value = number.ok_or_else(unfit)?;
        let precision = self.precision.unwrap_or(6);
        if precision > PRECISION {
            return Err(unfit());
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
fn size<'text>(text: &'text str, values: &mut Values<'_>) -> Result<(i64, &'text str)> {
    let too_large = unfit;
    if let Some(rest) = text.strip_prefix('*') {
        let index = integer_of(&values.next()?);
        let index = index.ok_or_else(unfit)?;
        return Ok((i64::try_from(index).map_err(|_| too_large())?, rest));
    }
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let size = match end {
        0 => 0,
        _ => text[..end].parse().map_err(|_| too_large())?,
    };
    Ok((size, &text[end..]))
}

fn character(value: &Value) -> Result<String> {
    if let Some(text) = value.as_str().filter(|text| text.chars().count() == 1) {
        return Ok(text.to_owned());
    }
    let code = integer_of(value).and_then(|index| u32::try_from(index).ok());
    let found = code.and_then(char::from_u32).map(String::from);
    found.ok_or_else(unfit)
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
