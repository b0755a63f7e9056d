//! HTTP/2 as h2spec asks for it: what RFC 7540 and RFC 7541 say, case by case.

use std::process::Stdio;

use kubewasm_tests::cluster::programs;
use tokio::{process::Command, time::timeout};

use super::world::{PATIENCE, Server};

/// What is not as h2spec wants it, and why that is well.
const OTHERWISE: [(&str, &str); 1] = [(
    "http2/3.5 Sends invalid connection preface",
    "who begins with anything else speaks HTTP/1.1 here, and is told in it what is wrong before the connection ends",
)];

/// Seconds for each case: for an answer that does not come. None is waited for where all is well.
const CASE: &str = "20";

/// Cases of a report in JUnit's form: their names, and whether they have passed.
fn cases(report: &str) -> Vec<(String, bool)> {
    let attribute = |case: &str, name: &str| {
        let (_, value) = case.split_once(&format!(" {name}=\"")).unwrap();
        value.split('"').next().unwrap().to_owned()
    };
    let cases = report.split("<testcase").skip(1).map(|case| {
        let name = format!("{} {}", attribute(case, "package"), attribute(case, "classname"));
        let case = case.split("</testcase>").next().unwrap();
        (name, !["<failure", "<error", "<skipped"].iter().any(|bad| case.contains(bad)))
    });
    cases.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_spoken_as_h2spec_asks_for_it() {
    let h2spec = programs::build("tools/h2spec/build.sh").await.unwrap().join("h2spec");
    let server = Server::new("").await;
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.xml");
    // A guest that waits for the end of its request, so that what is sent on a stream meets one that is open.
    let port = server.address.port().to_string();
    let mut command = Command::new(h2spec);
    command.args(["-h", "127.0.0.1", "-p", &port, "-P", "/take?100", "-o", CASE, "-j"]).arg(&report);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(PATIENCE * 10, output).await.expect("it comes to its end").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let cases = cases(&std::fs::read_to_string(&report).unwrap_or_else(|error| panic!("{error}: {said}")));
    assert!(cases.len() > 140, "{} cases are all: {said}", cases.len());
    let failed: Vec<_> = cases.iter().filter(|(_, is_passed)| !is_passed).map(|(name, _)| name).collect();
    assert_eq!(failed, OTHERWISE.map(|(name, _)| name), "{said}");
}
