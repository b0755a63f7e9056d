use super::*;

#[test]
fn what_is_said_has_to_be_what_is_there() {
    use ExecutionMode::{Gatekeeper, KubewardenWapc, Opa, Wasi};
    use ModuleKind::{CliComponent, CoreCommand, EmbeddedComponent, EmbeddedCore};
    for (said, kind, expected) in [
        (Some(Wasi), CoreCommand, Ok(())),
        (Some(Wasi), CliComponent, Ok(())),
        (Some(Wasi), EmbeddedComponent, Ok(())),
        (Some(Wasi), EmbeddedCore, Err(ModeError::GuestCall)),
        (Some(KubewardenWapc), EmbeddedCore, Ok(())),
        (Some(KubewardenWapc), CoreCommand, Err(ModeError::NoGuestCall)),
        (Some(KubewardenWapc), EmbeddedComponent, Err(ModeError::NoGuestCall)),
        (None, EmbeddedCore, Ok(())),
        (None, EmbeddedComponent, Ok(())),
        (None, CoreCommand, Err(ModeError::Unsaid)),
        (Some(Opa), CoreCommand, Err(ModeError::Unsupported("opa"))),
        (Some(Gatekeeper), EmbeddedCore, Err(ModeError::Unsupported("gatekeeper"))),
    ] {
        assert_eq!(check_mode(said, kind), expected, "{said:?} {kind}");
    }
    assert_eq!(check_engine(Some(Opa)), Err(ModeError::Unsupported("opa")));
    assert_eq!(check_engine(None), Ok(()));
}
