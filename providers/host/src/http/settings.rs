//! How a container is served. Plain values, and the text of an annotation that they are written in.

use std::{fmt, str::FromStr, time::Duration};

use super::units::{self, duration, size};

/// How the requests of one container are served. The default is what people know from nginx.
///
/// It is written as `key=value` pairs between commas or white space, in any order; what is not named has its default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Requests that an instance answers before it is replaced. 1: each has a fresh one.
    pub max_requests: u32,
    /// For how long an instance takes requests.
    pub max_age: Duration,
    /// For how long an instance is kept that has nothing to do.
    pub idle_time: Duration,
    /// Bytes of its memories beyond which an instance gets no further request; 0 for no bound but the container's limit.
    pub max_memory: u64,
    /// Instances at a time.
    pub max_instances: u32,
    /// Requests at a time in one instance of WASI 0.3. No more than `max_requests`.
    pub instance_concurrency: u32,
    /// Requests that wait for an instance; one more is answered with 503.
    pub queue: u32,
    /// From a request's head to the head of its answer, and between two pieces of the answer.
    pub request_timeout: Duration,
    /// For the head of the first request of a connection.
    pub header_timeout: Duration,
    /// Between two pieces of a request's body.
    pub body_timeout: Duration,
    /// For which a client takes nothing of an answer.
    pub send_timeout: Duration,
    /// For how long a connection is kept that has no request.
    pub keep_alive: Duration,
    /// Requests of one connection.
    pub keep_alive_requests: u32,
    /// Bytes of a request's body; 0 for no bound.
    pub max_body: u64,
    /// Bytes of a request's head.
    pub max_header: u32,
    /// Bytes of a request's target.
    pub max_uri: u32,
    /// Connections at a time; further ones wait in the kernel's queue.
    pub max_connections: u32,
    /// Requests at a time of one connection of HTTP/2.
    pub max_streams: u32,
    /// For how long new connections are accepted after the container was told to end: endpoints are known to others by then.
    pub drain: Duration,
    /// Requests are noted down on the container's standard output.
    pub access_log: AccessLog,
}

/// Whether and how requests are noted down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Not at all.
    #[default]
    Off,
    /// In the combined log format.
    Combined,
    /// As objects, one on each line.
    Json,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            max_requests: 1,
            max_age: Duration::from_secs(3600),
            idle_time: Duration::from_secs(10),
            max_memory: 0,
            max_instances: 64,
            instance_concurrency: 1,
            queue: 256,
            request_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(75),
            keep_alive_requests: 1000,
            max_body: 1 << 20,
            max_header: 32 << 10,
            max_uri: 8 << 10,
            max_connections: 4096,
            max_streams: 128,
            drain: Duration::from_secs(5),
            access_log: AccessLog::Off,
        }
    }
}

/// A text that says nothing about how requests are served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHttpSettings {
    /// A pair without a value.
    #[error("{0:?} is no pair: write key=value, such as max-requests=1000, with commas between pairs")]
    NoPair(String),
    /// A key that is not known.
    #[error("there is no setting {key:?}; there are {}", KEYS.join(", "))]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// The same key twice.
    #[error("{0} is set twice; leave one of them out")]
    Twice(&'static str),
    /// More requests at a time than an instance answers in all.
    #[error(
        "instance-concurrency={concurrency} asks for an instance that answers as many requests at least, and max-requests is {requests}; set max-requests, such as max-requests=1000"
    )]
    Concurrency {
        /// Requests at a time.
        concurrency: u32,
        /// Requests in all.
        requests: u32,
    },
    /// A value that is none of this key.
    #[error("{key}={value}: it must be {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it was set to.
        value: String,
        /// What it can be set to.
        expected: String,
    },
}

const KEYS: [&str; 20] = [
    "max-requests",
    "max-age",
    "idle-time",
    "max-memory",
    "max-instances",
    "instance-concurrency",
    "queue",
    "request-timeout",
    "header-timeout",
    "body-timeout",
    "send-timeout",
    "keep-alive",
    "keep-alive-requests",
    "max-body",
    "max-header",
    "max-uri",
    "max-connections",
    "max-streams",
    "drain",
    "access-log",
];

/// The longest time of any kind: a day.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The shortest time that something may take which is given up after it.
const SHORTEST: Duration = Duration::from_millis(1);

impl HttpSettings {
    fn set(&mut self, key: &'static str, value: &str) -> Result<(), InvalidHttpSettings> {
        let wrong = |expected: String| InvalidHttpSettings::Value { key, value: value.to_owned(), expected };
        let count = |least: u32, most: u32| {
            let read = value.parse().ok().filter(|count| (least..=most).contains(count));
            read.ok_or_else(|| wrong(format!("a number from {least} to {most}")))
        };
        let time = |least: Duration| {
            let read = duration(value).filter(|time| (least..=LONGEST).contains(time));
            read.ok_or_else(|| wrong("a time such as 500ms, 10s, 5m or 1h, up to 24h".to_owned()))
        };
        let bytes = || size(value).ok_or_else(|| wrong("an amount such as 65536, 64Ki or 10Mi".to_owned()));
        let head = |least: u32, most: u32| {
            let read = size(value).and_then(|bytes| u32::try_from(bytes).ok());
            let read = read.filter(|bytes| (least..=most).contains(bytes));
            read.ok_or_else(|| {
                let [least, most] = [least, most].map(|bytes| units::Size(bytes.into()));
                wrong(format!("an amount from {least} to {most}"))
            })
        };
        match key {
            "max-requests" => self.max_requests = count(1, u32::MAX)?,
            "max-age" => self.max_age = time(SHORTEST)?,
            "idle-time" => self.idle_time = time(SHORTEST)?,
            "max-memory" => self.max_memory = bytes()?,
            "max-instances" => self.max_instances = count(1, 10_000)?,
            "instance-concurrency" => self.instance_concurrency = count(1, 1000)?,
            "queue" => self.queue = count(0, 100_000)?,
            "request-timeout" => self.request_timeout = time(SHORTEST)?,
            "header-timeout" => self.header_timeout = time(SHORTEST)?,
            "body-timeout" => self.body_timeout = time(SHORTEST)?,
            "send-timeout" => self.send_timeout = time(SHORTEST)?,
            "keep-alive" => self.keep_alive = time(SHORTEST)?,
            "keep-alive-requests" => self.keep_alive_requests = count(1, u32::MAX)?,
            "max-body" => self.max_body = bytes()?,
            "max-header" => self.max_header = head(8 << 10, 1 << 20)?,
            "max-uri" => self.max_uri = head(256, 64 << 10)?,
            "max-connections" => self.max_connections = count(1, 100_000)?,
            "max-streams" => self.max_streams = count(1, 10_000)?,
            "drain" => self.drain = time(Duration::ZERO)?,
            "access-log" => {
                self.access_log = match value {
                    "off" => AccessLog::Off,
                    "combined" => AccessLog::Combined,
                    "json" => AccessLog::Json,
                    _ => return Err(wrong("off, combined or json".to_owned())),
                }
            }
            _ => return Err(InvalidHttpSettings::UnknownKey { key: key.to_owned() }),
        }
        Ok(())
    }
}

impl FromStr for HttpSettings {
    type Err = InvalidHttpSettings;

    fn from_str(text: &str) -> Result<Self, InvalidHttpSettings> {
        let mut settings = Self::default();
        let mut seen = Vec::new();
        let is_between = |c: char| c == ',' || c.is_whitespace();
        for pair in text.split(is_between).filter(|pair| !pair.is_empty()) {
            let no_pair = || InvalidHttpSettings::NoPair(pair.to_owned());
            let (name, value) = pair.split_once('=').ok_or_else(no_pair)?;
            let key = KEYS.iter().find(|key| **key == name);
            let key = *key.ok_or_else(|| InvalidHttpSettings::UnknownKey { key: name.to_owned() })?;
            if seen.contains(&key) {
                return Err(InvalidHttpSettings::Twice(key));
            }
            seen.push(key);
            settings.set(key, value)?;
        }
        let (concurrency, requests) = (settings.instance_concurrency, settings.max_requests);
        if concurrency > requests {
            return Err(InvalidHttpSettings::Concurrency { concurrency, requests });
        }
        Ok(settings)
    }
}

/// All of them, as they are read.
impl fmt::Display for HttpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use units::{Millis, Size};
        write!(f, "max-requests={},max-age={}", self.max_requests, Millis(self.max_age))?;
        write!(f, ",idle-time={},max-memory={}", Millis(self.idle_time), Size(self.max_memory))?;
        write!(f, ",max-instances={}", self.max_instances)?;
        write!(f, ",instance-concurrency={},queue={}", self.instance_concurrency, self.queue)?;
        write!(f, ",request-timeout={}", Millis(self.request_timeout))?;
        write!(f, ",header-timeout={}", Millis(self.header_timeout))?;
        write!(f, ",body-timeout={}", Millis(self.body_timeout))?;
        write!(f, ",send-timeout={},keep-alive={}", Millis(self.send_timeout), Millis(self.keep_alive))?;
        write!(f, ",keep-alive-requests={}", self.keep_alive_requests)?;
        write!(f, ",max-body={},max-header={}", Size(self.max_body), Size(self.max_header.into()))?;
        write!(f, ",max-uri={},max-connections={}", Size(self.max_uri.into()), self.max_connections)?;
        write!(f, ",max-streams={},drain={}", self.max_streams, Millis(self.drain))?;
        let log = match self.access_log {
            AccessLog::Off => "off",
            AccessLog::Combined => "combined",
            AccessLog::Json => "json",
        };
        write!(f, ",access-log={log}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_between_commas_and_white_space() {
        let read: HttpSettings =
            "max-requests=1000, idle-time=10s\n max-memory=64Mi request-timeout=500ms,max-body=0,access-log=json"
                .parse()
                .unwrap();
        let expected = HttpSettings {
            max_requests: 1000,
            idle_time: Duration::from_secs(10),
            max_memory: 64 << 20,
            request_timeout: Duration::from_millis(500),
            max_body: 0,
            access_log: AccessLog::Json,
            ..HttpSettings::default()
        };
        assert_eq!(read, expected);
        assert_eq!("".parse(), Ok(HttpSettings::default()));
    }

    #[test]
    fn settings_are_read_as_they_are_written() {
        let other: HttpSettings = "max-requests=7,max-age=90m,idle-time=1s,max-memory=1Gi,max-instances=3,\
            instance-concurrency=2,queue=0,\
            request-timeout=1ms,header-timeout=2s,body-timeout=3s,send-timeout=4s,keep-alive=5s,keep-alive-requests=6,\
            max-body=10Mi,max-header=16Ki,max-uri=1000,max-connections=8,max-streams=9,drain=0s,access-log=combined"
            .parse()
            .unwrap();
        for settings in [HttpSettings::default(), other] {
            let text = settings.to_string();
            assert_eq!(text.parse(), Ok(settings), "{text}");
            let keys: Vec<_> = text.split(',').filter_map(|pair| pair.split('=').next()).collect();
            assert_eq!(keys, KEYS);
        }
    }

    #[test]
    fn errors_name_the_key_and_the_way_out() {
        for (text, expected) in [
            ("max-requests", "key=value"),
            ("requests=1", "there are max-requests, max-age"),
            ("queue=1,queue=2", "queue is set twice"),
            ("max-requests=0", "max-requests=0: it must be a number from 1"),
            ("idle-time=10", "idle-time=10: it must be a time such as"),
            ("request-timeout=0s", "request-timeout=0s: it must be a time"),
            ("drain=25h", "up to 24h"),
            ("max-body=1MB", "max-body=1MB: it must be an amount"),
            ("max-header=1Ki", "an amount from 8Ki to 1Mi"),
            ("instance-concurrency=2", "max-requests is 1; set max-requests"),
            ("max-requests=5,instance-concurrency=1001", "a number from 1 to 1000"),
            ("access-log=on", "off, combined or json"),
        ] {
            let error = text.parse::<HttpSettings>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
