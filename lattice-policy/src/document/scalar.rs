//! What an unquoted scalar means (YAML 1.2 core schema, <https://yaml.org/spec/1.2.2/#1032-tag-resolution>).

use super::Value;

/// Words that YAML 1.1, which much of the Kubernetes world still reads, takes for booleans.
const YAML_1_1_BOOLEANS: [&str; 8] = ["y", "n", "yes", "no", "on", "off", "true", "false"];

/// The value of a plain scalar.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Boolean(true),
        "false" | "False" | "FALSE" => return Value::Boolean(false),
        _ => {}
    }
    if YAML_1_1_BOOLEANS.iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return Value::Ambiguous(text.to_owned());
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned.len() > 1 && unsigned.starts_with('0') && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        // 0644 is 420 in YAML 1.1 and 644 in YAML 1.2.
        return Value::Ambiguous(text.to_owned());
    }
    integer(text).map(Value::Integer).unwrap_or_else(|| {
        if is_float(unsigned) {
            Value::Float(text.to_owned())
        } else {
            Value::Text(text.to_owned())
        }
    })
}

fn integer(text: &str) -> Option<i128> {
    if let Some(digits) = text.strip_prefix("0x") {
        return i128::from_str_radix(digits, 16)
            .ok()
            .filter(|_| !digits.starts_with(['+', '-']));
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return i128::from_str_radix(digits, 8)
            .ok()
            .filter(|_| !digits.starts_with(['+', '-']));
    }
    text.parse().ok()
}

fn is_float(unsigned: &str) -> bool {
    if matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    // Rust's own parser takes more ("inf", "nan"), so the first character decides.
    unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') && unsigned.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Value) {
        assert_eq!(resolve(text), expected, "{text}");
    }

    #[test]
    fn plain_scalars() {
        check("", Value::Null);
        check("true", Value::Boolean(true));
        check("7", Value::Integer(7));
        check("-7", Value::Integer(-7));
        check("0x1f", Value::Integer(31));
        check("0x-1f", Value::Text("0x-1f".to_owned()));
        check("0o644", Value::Integer(0o644));
        check("1.5", Value::Float("1.5".to_owned()));
        check("1e3", Value::Float("1e3".to_owned()));
        check(&"9".repeat(60), Value::Float("9".repeat(60)));
        check("infinity", Value::Text("infinity".to_owned()));
        check("yes", Value::Ambiguous("yes".to_owned()));
        check("tRue", Value::Ambiguous("tRue".to_owned()));
        check("0644", Value::Ambiguous("0644".to_owned()));
        check("0", Value::Integer(0));
        check("/bin/sh", Value::Text("/bin/sh".to_owned()));
    }
}
