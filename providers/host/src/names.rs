//! Names that a module gives to its functions, which machine code keeps for backtraces.

use wasmparser::{KnownCustom, Name, Parser, Payload};

use crate::inspect::InspectError;

/// Longest name of a function, in bytes. Names are copied for each frame of a backtrace. Those of C++ and Rust come to
/// some thousand.
pub(crate) const FUNCTION_NAME_LIMIT: usize = 32 << 10;

/// Refuses a module or component, or one with a module inside, that gives a function too long a name. Whether the
/// code is valid is not looked at, nor whether the names are: what cannot be read is no name.
pub(crate) fn check(bytes: &[u8]) -> Result<(), InspectError> {
    for payload in Parser::new(0).parse_all(bytes) {
        let Ok(payload) = payload else { return Ok(()) };
        let Payload::CustomSection(section) = payload else { continue };
        let KnownCustom::Name(names) = section.as_known() else { continue };
        for part in names.into_iter().map_while(Result::ok) {
            let Name::Function(functions) = part else { continue };
            for function in functions.into_iter().map_while(Result::ok) {
                let length = function.name.len();
                if length > FUNCTION_NAME_LIMIT {
                    return Err(InspectError::LongName { function: function.index, length });
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_wherever_they_are() {
        let module = |length: usize| format!("module (func ${})", "n".repeat(length));
        for (length, expected) in [
            (FUNCTION_NAME_LIMIT, Ok(())),
            (
                FUNCTION_NAME_LIMIT + 1,
                Err(InspectError::LongName { function: 0, length: FUNCTION_NAME_LIMIT + 1 }),
            ),
        ] {
            let core = wat::parse_str(format!("({})", module(length))).unwrap();
            assert_eq!(check(&core), expected);
            let nested = format!("(component (component (core {})))", module(length));
            assert_eq!(check(&wat::parse_str(nested).unwrap()), expected);
        }
    }

    #[test]
    fn damage_is_somebody_elses_business() {
        let module = wat::parse_str("(module (func $name))").unwrap();
        for end in 0..module.len() {
            assert_eq!(check(&module[..end]), Ok(()));
        }
    }
}
