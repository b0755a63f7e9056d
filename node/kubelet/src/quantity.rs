//! Quantities as Kubernetes writes them: `500m`, `128Mi`, `1.5`, `2e3`.
//!
//! The grammar is that of
//! [`k8s.io/apimachinery/pkg/api/resource`](https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/).
//! Numbers are rounded up to the unit that is asked for, as the API server does.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Why a text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not follow the grammar.
    #[error("{0:?} is not a quantity such as \"500m\", \"2\" or \"128Mi\"")]
    Malformed(String),
    /// It is below zero, or above what 64 bits hold.
    #[error("quantity {0:?} is out of range")]
    OutOfRange(String),
}

/// Whole units, rounded up: bytes of memory or storage, number of pods.
///
/// # Errors
/// [`QuantityError`] when the text is no quantity, or one that 64 bits do not hold.
pub fn units(text: &str) -> Result<u64, QuantityError> {
    scaled(text, 1)
}

/// Thousandths, rounded up: milli-cores.
///
/// # Errors
/// [`QuantityError`] when the text is no quantity, or one that 64 bits do not hold.
pub fn millis(text: &str) -> Result<u64, QuantityError> {
    scaled(text, 1000)
}

/// A CPU quantity in the shortest form: `2`, `1500m`.
#[must_use]
pub fn from_millis(millis: u64) -> Quantity {
    Quantity(if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") })
}

/// A memory or storage quantity in Ki where it is even, in bytes otherwise.
#[must_use]
pub fn from_bytes(bytes: u64) -> Quantity {
    Quantity(if bytes >= 1024 && bytes.is_multiple_of(1024) {
        format!("{}Ki", bytes / 1024)
    } else {
        bytes.to_string()
    })
}

/// An amount in the largest unit in which it is whole, as the API server writes it: of bytes, `1Mi`, of what is
/// counted in tens, `12k`.
#[must_use]
pub(crate) fn canonical(amount: u64, binary: bool) -> String {
    let (base, units) = if binary {
        (1024, ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
    } else {
        (1000, ["", "k", "M", "G", "T", "P", "E"])
    };
    let mut left = amount;
    for unit in units {
        if left == 0 || !left.is_multiple_of(base) {
            return format!("{left}{unit}");
        }
        left /= base;
    }
    amount.to_string()
}

/// True for a quantity that counts in powers of 1024.
pub(crate) fn is_binary(text: &str) -> bool {
    text.ends_with('i')
}

fn scaled(text: &str, per_unit: i128) -> Result<u64, QuantityError> {
    let malformed = || QuantityError::Malformed(text.to_owned());
    let out_of_range = || QuantityError::OutOfRange(text.to_owned());

    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && decimals.is_empty()) || decimals.contains('.') {
        return Err(malformed());
    }
    let (factor, divisor) = suffix_factor(suffix).ok_or_else(malformed)?;

    let digits: i128 = format!("{whole}{decimals}").parse().map_err(|_| out_of_range())?;
    let decimal_places = u32::try_from(decimals.len()).map_err(|_| out_of_range())?;
    let numerator =
        digits.checked_mul(factor).and_then(|n| n.checked_mul(per_unit)).ok_or_else(out_of_range)?;
    let denominator =
        10_i128.checked_pow(decimal_places).and_then(|d| d.checked_mul(divisor)).ok_or_else(out_of_range)?;
    let rounded_up = numerator / denominator + i128::from(numerator % denominator != 0);
    u64::try_from(sign * rounded_up).map_err(|_| out_of_range())
}

/// What a suffix multiplies by, as numerator and denominator.
fn suffix_factor(suffix: &str) -> Option<(i128, i128)> {
    if let Some(exponent) = suffix.strip_prefix(['e', 'E'])
        && exponent.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-'))
    {
        let exponent: i32 = exponent.parse().ok()?;
        let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
        return Some(if exponent < 0 { (1, power) } else { (power, 1) });
    }
    Some(match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "" => (1, 1),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_every_suffix() {
        let table = [
            ("0", 0),
            ("1", 1),
            ("+2", 2),
            ("1.5", 2),
            (".5", 1),
            ("1.", 1),
            ("100m", 1),
            ("1500m", 2),
            ("1k", 1000),
            ("10M", 10_000_000),
            ("1Ki", 1024),
            ("1.5Gi", 1_610_612_736),
            ("1e3", 1000),
            ("1E2", 100),
            ("5e-1", 1),
            ("1n", 1),
            ("10Ei", 10 << 60),
        ];
        for (text, expected) in table {
            assert_eq!(units(text), Ok(expected), "{text}");
        }
        assert_eq!(millis("1.5"), Ok(1500));
        assert_eq!(millis("250m"), Ok(250));
        assert_eq!(millis("1u"), Ok(1));
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "Mi", "1 Mi", "1.2.3", "ten", "1KiB", "0x10", "1e", "."] {
            let refused = units(text);
            assert!(refused.is_err(), "{text:?} was read as {refused:?}");
        }
        assert_eq!(units("-1"), Err(QuantityError::OutOfRange("-1".into())));
        assert_eq!(units("999Ei"), Err(QuantityError::OutOfRange("999Ei".into())));
        assert_eq!(units("1e99"), Err(QuantityError::Malformed("1e99".into())));
    }

    #[test]
    fn the_largest_whole_unit_is_written() {
        for (amount, binary, expected) in [
            (0, true, "0"),
            (512, true, "512"),
            (1 << 20, true, "1Mi"),
            (1536, true, "1536"),
            (3 << 29, true, "1536Mi"),
            (5_872_025, true, "5872025"),
            (12_000, false, "12k"),
            (12_345, false, "12345"),
        ] {
            assert_eq!(canonical(amount, binary), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_canonical_is_the_same(value in 0..u64::MAX, binary: bool) {
            prop_assert_eq!(units(&canonical(value, binary)), Ok(value));
        }

        #[test]
        fn what_is_written_is_read_again(value in 0..u64::MAX) {
            prop_assert_eq!(units(&from_bytes(value).0), Ok(value));
            prop_assert_eq!(millis(&from_millis(value).0), Ok(value));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = units(&text);
            let _ = millis(&text);
        }
    }
}
