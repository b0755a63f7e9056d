use std::io::{Read as _, Write as _};

use proptest::prelude::*;

use super::*;

const CALL: Call<'static> = Call {
    destination: "org.freedesktop.login1",
    path: "/org/freedesktop/login1",
    interface: "org.freedesktop.login1.Manager",
    member: "Inhibit",
    arguments: &[Argument::Text("shutdown"), Argument::Int(1)],
};

/// What busctl and `dbus-monitor` show of these bytes was compared once by eye.
#[test]
fn a_call_is_at_its_place_byte_by_byte() {
    let bytes = Call { destination: "d", path: "/p", interface: "i", member: "m", ..CALL }.encode(7).unwrap();
    let mut expected = b"l\x01\x00\x01\x14\x00\x00\x00\x07\x00\x00\x00\x48\x00\x00\x00".to_vec();
    expected.extend(b"\x01\x01o\x00\x02\x00\x00\x00/p\x00\x00\x00\x00\x00\x00");
    for (code, text) in [(2, b'i'), (3, b'm'), (6, b'd')] {
        expected.extend([code, 1, b's', 0, 1, 0, 0, 0, text, 0, 0, 0, 0, 0, 0, 0]);
    }
    expected.extend(b"\x08\x01g\x00\x02si\x00");
    expected.extend(b"\x08\x00\x00\x00shutdown\x00\x00\x00\x00\x01\x00\x00\x00");
    assert_eq!(bytes, expected);
    assert_eq!(Message::length(&bytes).unwrap(), Some(bytes.len()));
    let read = Message::decode(&bytes).unwrap();
    assert_eq!((read.path(), read.interface(), read.member()), (Some("/p"), Some("i"), Some("m")));
    assert_eq!((read.kind, read.first()), (MessageKind::Other, Some(Value::Text("shutdown".to_owned()))));
}

#[test]
fn signals_and_variants_are_read_whatever_the_order_of_their_bytes() {
    // PrepareForShutdown(true), from :1.2, of a machine that begins with the greatest byte.
    let mut bytes = b"B\x04\x01\x01\x00\x00\x00\x04\x00\x00\x00\x01\x00\x00\x00\x17".to_vec();
    bytes.extend(b"\x07\x01s\x00\x00\x00\x00\x04:1.2\x00\x00\x00\x00");
    bytes.extend(b"\x08\x01g\x00\x01b\x00\x00");
    bytes.extend(b"\x00\x00\x00\x01");
    let signal = Message::decode(&bytes).unwrap();
    assert_eq!((signal.kind, signal.first()), (MessageKind::Signal, Some(Value::Boolean(true))));
    assert_eq!(signal.sender().map(String::as_str), Some(":1.2"));
    // A variant with 5 seconds in microseconds, as an answer to the third call.
    let mut bytes = b"l\x02\x01\x01\x10\x00\x00\x00\x09\x00\x00\x00\x0f\x00\x00\x00".to_vec();
    bytes.extend(b"\x05\x01u\x00\x03\x00\x00\x00\x08\x01g\x00\x01v\x00\x00");
    bytes.extend(b"\x01t\x00\x00\x00\x00\x00\x00");
    bytes.extend(5_000_000u64.to_le_bytes());
    let answer = Message::decode(&bytes).unwrap();
    assert_eq!((answer.kind, answer.first()), (MessageKind::Return(3), Some(Value::Number(5_000_000))));
}

#[test]
fn a_message_without_end_is_refused() {
    let bytes = b"l\x04\x01\x01\x00\x00\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00";
    assert!(Message::length(bytes).is_err());
    assert_eq!(Message::length(&bytes[..15]).unwrap(), None);
}

proptest! {
    #[test]
    fn bytes_of_anybody_do_no_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), little in any::<bool>()) {
        if let Some(first) = bytes.first_mut() {
            *first = if little { b'l' } else { b'B' };
        }
        let _ = Message::length(&bytes);
        let _ = Message::decode(&bytes);
    }
}

#[test]
fn addresses_name_sockets() {
    let address = |text| socket_address(text).map(|address| format!("{:?}", address.unwrap()));
    let path = Some("\"/run/a b\" (pathname)".to_owned());
    assert_eq!(address("unix:path=/run/a%20b,guid=1"), path);
    assert_eq!(address("unix:guid=1,abstract=/tmp/x"), Some("\"/tmp/x\" (abstract)".to_owned()));
    assert_eq!(address("tcp:host=localhost"), None);
    assert_eq!(unescape("%zz%4"), b"%zz%4");
}

/// Who does not know this user says so, and is believed.
#[tokio::test]
async fn a_bus_that_lets_nobody_in_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let bus = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut line = [0; 5];
        client.read_exact(&mut line).unwrap();
        client.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
        line
    });
    let error = Bus::connect(&format!("unix:path={}", path.display())).await.unwrap_err().to_string();
    assert!(error.contains("REJECTED EXTERNAL"), "{error}");
    assert_eq!(&bus.join().unwrap(), b"\0AUTH");
    let error = Bus::connect("unix:path=/none").await.unwrap_err().to_string();
    assert!(error.starts_with("cannot connect to the system bus at unix:path=/none: "), "{error}");
}
