//! Messages of D-Bus as bytes: what little of them the agent sends and reads. Pure.
//!
//! See <https://dbus.freedesktop.org/doc/dbus-specification.html#message-protocol>.

use std::os::fd::OwnedFd;

use super::BusError;

/// Most bytes of a message that is read: what the agent is told is short.
const LONGEST: usize = 1 << 20;
/// The part of a message whose length does not vary.
const FIXED: usize = 16;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SENDER: u8 = 7;
const SIGNATURE: u8 = 8;
const UNIX_FDS: u8 = 9;

/// A call of a method.
#[derive(Clone, Copy, Debug)]
pub(in crate::shutdown) struct Call<'a> {
    pub(in crate::shutdown) destination: &'a str,
    pub(in crate::shutdown) path: &'a str,
    pub(in crate::shutdown) interface: &'a str,
    pub(in crate::shutdown) member: &'a str,
    pub(in crate::shutdown) arguments: &'a [Argument<'a>],
}

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub(in crate::shutdown) enum Argument<'a> {
    Text(&'a str),
    Int(i32),
}

/// The first value of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::shutdown) enum Value {
    Text(String),
    Boolean(bool),
    Number(u64),
}

impl<'a> Call<'a> {
    /// A call of the bus itself.
    pub(in crate::shutdown) fn of_bus(member: &'a str, arguments: &'a [Argument<'a>]) -> Self {
        let interface = "org.freedesktop.DBus";
        Self { destination: interface, path: "/org/freedesktop/DBus", interface, member, arguments }
    }

    /// The bytes of the call, under its serial number.
    pub(super) fn encode(&self, serial: u32) -> Result<Vec<u8>, BusError> {
        let mut body = Writer::default();
        let mut signature = String::new();
        for argument in self.arguments {
            match argument {
                Argument::Text(text) => {
                    body.text(text)?;
                    signature.push('s');
                }
                Argument::Int(number) => {
                    body.align(4);
                    body.0.extend(number.to_le_bytes());
                    signature.push('i');
                }
            }
        }
        let mut fields = Writer::default();
        for (code, kind, text) in [
            (PATH, "o", self.path),
            (INTERFACE, "s", self.interface),
            (MEMBER, "s", self.member),
            (DESTINATION, "s", self.destination),
        ] {
            fields.align(8);
            fields.0.push(code);
            fields.signature(kind)?;
            fields.text(text)?;
        }
        if !signature.is_empty() {
            fields.align(8);
            fields.0.push(SIGNATURE);
            fields.signature("g")?;
            fields.signature(&signature)?;
        }
        let mut message = Writer(vec![b'l', METHOD_CALL, 0, 1]);
        message.number(length(&body.0)?);
        message.number(serial);
        message.number(length(&fields.0)?);
        message.0.extend(fields.0);
        message.align(8);
        message.0.extend(body.0);
        Ok(message.0)
    }
}

fn length(bytes: &[u8]) -> Result<u32, BusError> {
    u32::try_from(bytes.len()).map_err(|_| BusError::Unexpected("a message that is too long"))
}

/// Writes values, each at its place.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) -> Result<(), BusError> {
        self.number(length(text.as_bytes())?);
        self.0.extend(text.as_bytes());
        self.0.push(0);
        Ok(())
    }

    fn signature(&mut self, text: &str) -> Result<(), BusError> {
        let length = u8::try_from(text.len()).map_err(|_| BusError::Unexpected("too many arguments"))?;
        self.0.push(length);
        self.0.extend(text.as_bytes());
        self.0.push(0);
        Ok(())
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageKind {
    /// The answer to the call of this serial number.
    Return(u32),
    /// The same, and it has failed.
    Failure(u32),
    Signal,
    /// Nothing that is for the agent.
    Other,
}

/// A message that has come.
#[derive(Debug)]
pub(in crate::shutdown) struct Message {
    pub(super) kind: MessageKind,
    path: Option<String>,
    interface: Option<String>,
    member: Option<String>,
    sender: Option<String>,
    error: Option<String>,
    first: Option<Value>,
    /// How many descriptors have come with it.
    pub(super) fd_count: u32,
    pub(super) fds: Vec<OwnedFd>,
}

impl Message {
    pub(in crate::shutdown) fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    pub(in crate::shutdown) fn interface(&self) -> Option<&str> {
        self.interface.as_deref()
    }

    pub(in crate::shutdown) fn member(&self) -> Option<&str> {
        self.member.as_deref()
    }

    pub(in crate::shutdown) fn sender(&self) -> Option<&String> {
        self.sender.as_ref()
    }

    /// The first value in it, if it is one that the agent knows.
    pub(in crate::shutdown) fn first(&self) -> Option<Value> {
        self.first.clone()
    }

    /// The first descriptor that has come with it.
    pub(in crate::shutdown) fn take_fd(&mut self) -> Option<OwnedFd> {
        (!self.fds.is_empty()).then(|| self.fds.remove(0))
    }

    /// What a failure says.
    pub(super) fn failure(&self) -> String {
        let name = self.error.as_deref().unwrap_or("an error without a name");
        match &self.first {
            Some(Value::Text(text)) => format!("{name}: {text}"),
            _ => name.to_owned(),
        }
    }

    /// How long the message is that begins like this; `None` as long as that cannot be told.
    pub(super) fn length(bytes: &[u8]) -> Result<Option<usize>, BusError> {
        let Some(head) = bytes.get(..FIXED) else { return Ok(None) };
        let mut reader = Reader { bytes: head, at: 4, little: is_little(head)? };
        let body = reader.length()?;
        reader.number()?;
        let fields = reader.length()?;
        let whole = (FIXED + fields).next_multiple_of(8) + body;
        if whole > LONGEST {
            return Err(BusError::Unexpected("a message that is too long"));
        }
        Ok(Some(whole))
    }

    /// Reads a whole message.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BusError> {
        let mut reader = Reader { bytes, at: 0, little: is_little(bytes)? };
        reader.take(1)?;
        let kind = reader.byte()?;
        reader.take(10)?;
        let end = reader.length()?.checked_add(FIXED).ok_or(MALFORMED)?;
        let mut message = Self {
            kind: MessageKind::Other,
            path: None,
            interface: None,
            member: None,
            sender: None,
            error: None,
            first: None,
            fd_count: 0,
            fds: Vec::new(),
        };
        let (mut reply, mut signature) = (None, String::new());
        while reader.at < end {
            reader.align(8)?;
            let code = reader.byte()?;
            let value = reader.variant()?;
            match (code, value) {
                (PATH, Field::Text(text)) => message.path = Some(text),
                (INTERFACE, Field::Text(text)) => message.interface = Some(text),
                (MEMBER, Field::Text(text)) => message.member = Some(text),
                (ERROR_NAME, Field::Text(text)) => message.error = Some(text),
                (SENDER, Field::Text(text)) => message.sender = Some(text),
                (SIGNATURE, Field::Text(text)) => signature = text,
                (REPLY_SERIAL, Field::Number(number)) => reply = u32::try_from(number).ok(),
                (UNIX_FDS, Field::Number(number)) => {
                    message.fd_count = u32::try_from(number).map_err(|_| MALFORMED)?;
                }
                _ => {}
            }
        }
        reader.align(8)?;
        message.kind = match (kind, reply) {
            (METHOD_RETURN, Some(serial)) => MessageKind::Return(serial),
            (ERROR, Some(serial)) => MessageKind::Failure(serial),
            (SIGNAL, _) => MessageKind::Signal,
            _ => MessageKind::Other,
        };
        message.first = match signature.as_bytes().first() {
            Some(b'v') => reader.variant().ok(),
            Some(kind) => reader.value(*kind).ok(),
            None => None,
        }
        .map(|field| match field {
            Field::Text(text) => Value::Text(text),
            Field::Boolean(value) => Value::Boolean(value),
            Field::Number(number) => Value::Number(number),
        });
        Ok(message)
    }
}

/// A value of a basic type.
enum Field {
    Text(String),
    Boolean(bool),
    Number(u64),
}

const MALFORMED: BusError = BusError::Unexpected("a message that is none");

fn is_little(bytes: &[u8]) -> Result<bool, BusError> {
    match bytes.first() {
        Some(b'l') => Ok(true),
        Some(b'B') => Ok(false),
        _ => Err(MALFORMED),
    }
}

/// Reads values, each from its place.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    little: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BusError> {
        let end = self.at.checked_add(count).ok_or(MALFORMED)?;
        let taken = self.bytes.get(self.at..end).ok_or(MALFORMED)?;
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> Result<(), BusError> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn byte(&mut self) -> Result<u8, BusError> {
        self.take(1)?.first().copied().ok_or(MALFORMED)
    }

    /// An unsigned number of so many bytes.
    fn unsigned(&mut self, width: usize) -> Result<u64, BusError> {
        self.align(width)?;
        let bytes = self.take(width)?.iter();
        let add = |sum: u64, byte: &u8| (sum << 8) | u64::from(*byte);
        Ok(if self.little { bytes.rev().fold(0, add) } else { bytes.fold(0, add) })
    }

    fn number(&mut self) -> Result<u32, BusError> {
        u32::try_from(self.unsigned(4)?).map_err(|_| MALFORMED)
    }

    fn length(&mut self) -> Result<usize, BusError> {
        usize::try_from(self.number()?).ok().filter(|length| *length <= LONGEST).ok_or(MALFORMED)
    }

    fn text(&mut self, length: usize) -> Result<String, BusError> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| MALFORMED)?.to_owned();
        self.take(1)?;
        Ok(text)
    }

    fn variant(&mut self) -> Result<Field, BusError> {
        let length = usize::from(self.byte()?);
        let signature = self.text(length)?;
        let [kind] = signature.as_bytes() else { return Err(MALFORMED) };
        self.value(*kind)
    }

    fn value(&mut self, kind: u8) -> Result<Field, BusError> {
        Ok(match kind {
            b's' | b'o' => {
                let length = self.length()?;
                Field::Text(self.text(length)?)
            }
            b'g' => {
                let length = usize::from(self.byte()?);
                Field::Text(self.text(length)?)
            }
            b'b' => Field::Boolean(self.unsigned(4)? == 1),
            b'y' => Field::Number(self.byte()?.into()),
            b'n' | b'q' => Field::Number(self.unsigned(2)?),
            b'i' | b'u' | b'h' => Field::Number(self.unsigned(4)?),
            b'x' | b't' | b'd' => Field::Number(self.unsigned(8)?),
            _ => return Err(MALFORMED),
        })
    }
}
