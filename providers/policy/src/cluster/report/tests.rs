use super::*;

#[test]
fn a_report_is_read_as_it_was_written() {
    let version = PolicyVersion { uid: "u".into(), generation: 2 };
    let mut report = ReplicaReport { certificate: Some("f".into()), ..ReplicaReport::default() };
    report.note("kw.cap.p".into(), &version);
    let read: ReplicaReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(read, report);
    assert!(read.serves("kw.cap.p", &version));
    for other in
        [PolicyVersion { uid: "u".into(), generation: 3 }, PolicyVersion { uid: "v".into(), generation: 2 }]
    {
        assert!(!read.serves("kw.cap.p", &other));
    }
    assert!(!read.serves("kw.cap.q", &version));
}
