//! The text that monitoring reads, in the two forms that it is asked for:
//! [Prometheus' own](https://prometheus.io/docs/instrumenting/exposition_formats/) (0.0.4) and
//! [OpenMetrics](https://prometheus.io/docs/specs/om/open_metrics_spec/).
//!
//! They differ in what a counter is called where its type is said (with `_total`, and without), and in the unit of a
//! sample's time. Metrics that count up over the node's life are kept in a registry, which writes OpenMetrics; what is
//! looked at when it is asked for is a list of [`Family`]s, whose samples may have a time of their own.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
};

use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use prometheus_client::{encoding::text, registry::Registry};
use warp::reply::{Reply as _, Response};

use crate::server::reply;

/// Texts that are shorter are not compressed.
const SHORT: usize = 1024;

/// A form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Version 0.0.4 of Prometheus' text.
    Classic,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What a scraper prefers: OpenMetrics where it says that it reads it.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut accepted = headers.get_all(header::ACCEPT).iter();
        let is_open = accepted
            .any(|accept| accept.to_str().is_ok_and(|text| text.contains("application/openmetrics-text")));
        if is_open { Self::OpenMetrics } else { Self::Classic }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        })
    }
}

/// What the numbers of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// They never fall. The family's name ends in `_total`.
    Counter,
    /// They rise and fall.
    Gauge,
}

/// All samples of one name.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<Sample>,
}

/// One number.
#[derive(Clone, Debug)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: f64,
    /// When it was so; without, it is so now.
    at: Option<Timestamp>,
}

impl Family {
    pub(crate) fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { name, help, kind, samples: Vec::new() }
    }

    pub(crate) fn add(&mut self, labels: &[(&'static str, &str)], value: f64, at: Option<Timestamp>) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.samples.push(Sample { labels, value, at });
    }

    fn write(&self, format: Format, out: &mut String) -> fmt::Result {
        let described = match format {
            Format::OpenMetrics => self.name.strip_suffix("_total").unwrap_or(self.name),
            Format::Classic => self.name,
        };
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        writeln!(out, "# HELP {described} {}\n# TYPE {described} {kind}", self.help)?;
        for sample in &self.samples {
            out.push_str(self.name);
            for (index, (name, value)) in sample.labels.iter().enumerate() {
                write!(out, "{}{name}=\"", if index == 0 { '{' } else { ',' })?;
                escape(value, out);
                out.push('"');
            }
            out.push_str(if sample.labels.is_empty() { "" } else { "}" });
            write!(out, " {}", sample.value)?;
            match (sample.at, format) {
                (Some(at), Format::Classic) => write!(out, " {}", at.as_millisecond())?,
                (Some(at), Format::OpenMetrics) => {
                    let millis = at.as_millisecond();
                    write!(out, " {}.{:03}", millis.div_euclid(1000), millis.rem_euclid(1000))?;
                }
                (None, _) => {}
            }
            out.push('\n');
        }
        Ok(())
    }
}

fn escape(value: &str, out: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

/// Families as text. Those without samples are left out.
pub(crate) fn families(families: &[Family], format: Format) -> Result<String, fmt::Error> {
    let mut out = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        family.write(format, &mut out)?;
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    Ok(out)
}

/// What is in a registry as text.
pub(crate) fn registry(registry: &Registry, format: Format) -> Result<String, fmt::Error> {
    let mut out = String::new();
    text::encode(&mut out, registry)?;
    Ok(match format {
        Format::OpenMetrics => out,
        Format::Classic => classic(&out),
    })
}

/// The classic form of what is in the other: there, counters are described by the name that their samples have, and
/// there is no end mark.
fn classic(open: &str) -> String {
    let mut out = String::with_capacity(open.len());
    let mut help: Option<&str> = None;
    for line in open.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = Some(described);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|described| described.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let text = help.take().and_then(|help| help.strip_prefix(name)).unwrap_or_default();
            let kind = if kind == "unknown" { "untyped" } else { kind };
            out.push_str(&format!("# HELP {name}{suffix}{text}\n# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with("# ") {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// The answer with such a text, compressed where the scraper takes that.
pub(crate) fn answer(text: Result<String, fmt::Error>, format: Format, headers: &HeaderMap) -> Response {
    let Ok(text) = text else {
        return reply::text(StatusCode::INTERNAL_SERVER_ERROR, "a metric could not be written\n");
    };
    let takes_gzip = headers.get_all(header::ACCEPT_ENCODING).iter().any(accepts_gzip);
    let compressed = (takes_gzip && text.len() >= SHORT).then(|| gzip(text.as_bytes())).flatten();
    let mut response = match compressed {
        Some(compressed) => {
            let mut response = compressed.into_response();
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        }
        None => text.into_response(),
    };
    response.headers_mut().insert(header::CONTENT_TYPE, format.content_type());
    response
}

/// Whether a list of codings has gzip, and not with a weight of nothing.
fn accepts_gzip(codings: &HeaderValue) -> bool {
    let codings = codings.to_str().unwrap_or_default();
    codings.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f64>().ok());
        is_gzip && weight.is_none_or(|weight| weight > 0.0)
    })
}

fn gzip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

    use super::*;

    fn usage() -> Family {
        let mut family = Family::new("cpu_seconds_total", Kind::Counter, "Time");
        let at = Timestamp::from_millisecond(1_700_000_000_012).unwrap();
        family.add(&[("pod", "a\"b\\c\nd"), ("namespace", "ns")], 1.5, Some(at));
        family.add(&[], 2.0, None);
        family
    }

    #[test]
    fn each_form_has_its_own_names_of_counters_and_its_own_time() {
        let none = Family::new("nothing", Kind::Gauge, "None");
        assert_eq!(
            families(&[usage(), none.clone()], Format::Classic).unwrap(),
            "# HELP cpu_seconds_total Time\n# TYPE cpu_seconds_total counter\n\
             cpu_seconds_total{pod=\"a\\\"b\\\\c\\nd\",namespace=\"ns\"} 1.5 1700000000012\ncpu_seconds_total 2\n"
        );
        assert_eq!(
            families(&[usage(), none], Format::OpenMetrics).unwrap(),
            "# HELP cpu_seconds Time\n# TYPE cpu_seconds counter\n\
             cpu_seconds_total{pod=\"a\\\"b\\\\c\\nd\",namespace=\"ns\"} 1.5 1700000000.012\ncpu_seconds_total 2\n# EOF\n"
        );
    }

    #[test]
    fn a_registry_is_written_in_the_classic_form_too() {
        let mut kept = Registry::default();
        kept.register("things", "What there was", Counter::<u64>::default());
        kept.register("level", "What there is", Gauge::<i64>::default());
        assert_eq!(
            registry(&kept, Format::Classic).unwrap(),
            "# HELP things_total What there was.\n# TYPE things_total counter\nthings_total 0\n\
             # HELP level What there is.\n# TYPE level gauge\nlevel 0\n"
        );
        assert!(registry(&kept, Format::OpenMetrics).unwrap().ends_with("# EOF\n"));
    }

    #[test]
    fn a_long_text_is_compressed_for_who_takes_it() {
        let asked = |encoding: &'static str| {
            HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(encoding))])
        };
        let coding = |length: usize, encoding: &'static str| {
            let response = answer(Ok("x".repeat(length)), Format::Classic, &asked(encoding));
            response.headers().get(header::CONTENT_ENCODING).cloned()
        };
        let gzip = Some(HeaderValue::from_static("gzip"));
        assert_eq!(coding(SHORT, "br, gzip;q=0.5"), gzip);
        assert_eq!(coding(SHORT, "gzip;q=0"), None);
        assert_eq!(coding(SHORT, "identity"), None);
        assert_eq!(coding(SHORT - 1, "gzip"), None);
    }
}
