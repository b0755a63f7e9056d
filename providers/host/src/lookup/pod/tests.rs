//! Against servers that say one thing each, on this machine's loopback. `tests/network` of the pod provider asks a real one.

use std::net::UdpSocket;

use super::*;

/// A server that answers every question so: `None` with nothing at all. Returns its port.
fn server(ip: &str, port: u16, answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> u16 {
    let socket = UdpSocket::bind((ip, port)).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((size, from)) = socket.recv_from(&mut question) {
            if let Some(answer) = answer(&question[..size]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    port
}

/// An answer without records, with a code.
fn code(question: &[u8], code: u8) -> Option<Vec<u8>> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[3] = 0x80 | code;
    Some(answer)
}

/// An answer to a question for addresses of IPv4 with this one; to others, that there are none.
fn address(question: &[u8], ip: [u8; 4]) -> Option<Vec<u8>> {
    let mut answer = code(question, 0)?;
    let name = question[12..].iter().position(|byte| *byte == 0)? + 13;
    if question[name..name + 2] == [0, 1] {
        answer[7] = 1;
        answer.truncate(name + 4);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(ip);
        answer[10..12].fill(0);
    }
    Some(answer)
}

/// The name of a question, with dots between its labels.
fn name(question: &[u8]) -> String {
    let (mut at, mut name) = (12, String::new());
    while question[at] > 0 {
        let size = question[at] as usize;
        name += &String::from_utf8_lossy(&question[at + 1..=at + size]);
        name.push('.');
        at += size + 1;
    }
    name
}

fn resolver(conf: &str, hosts: &str, port: u16) -> PodResolver {
    PodResolver::new(Arc::new(NameFiles::new(conf, hosts)), None).at_port(port)
}

async fn ask(resolver: &PodResolver, name: &str) -> Result<String, ErrorCode> {
    let found = resolver.look_up(name).await?;
    Ok(found.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

#[tokio::test]
async fn the_hosts_file_is_asked_first_and_knows_names_as_they_are() {
    let port = server("127.0.0.1", 0, |question| code(question, 3));
    let resolver =
        resolver("nameserver 127.0.0.1\nsearch example\n", "10.9.9.9 one one.example\n::9 one\n", port);
    assert_eq!(ask(&resolver, "one").await, Ok("10.9.9.9 ::9".to_owned()));
    assert_eq!(ask(&resolver, "ONE.").await, Ok("10.9.9.9 ::9".to_owned()));
    assert_eq!(ask(&resolver, "two").await, Err(ErrorCode::NameUnresolvable));
}

#[tokio::test]
async fn search_domains_are_tried_in_their_order() {
    let port = server("127.0.0.1", 0, |question| match name(question).as_str() {
        "web.b.example." => address(question, [10, 0, 0, 1]),
        "web.c.example." => address(question, [10, 0, 0, 2]),
        "broken.a.example." => code(question, 2),
        "broken.b.example." => address(question, [10, 0, 0, 3]),
        _ => code(question, 3),
    });
    let resolver = resolver("nameserver 127.0.0.1\nsearch a.example b.example c.example\n", "", port);
    assert_eq!(ask(&resolver, "web").await, Ok("10.0.0.1".to_owned()));
    assert_eq!(ask(&resolver, "web.").await, Err(ErrorCode::NameUnresolvable));
    assert_eq!(ask(&resolver, "broken").await, Ok("10.0.0.3".to_owned()), "another one may know it");
    assert_eq!(ask(&resolver, &"x".repeat(63)).await, Err(ErrorCode::NameUnresolvable));
}

#[tokio::test]
async fn errors_of_servers_are_told_apart() {
    for (answer, expected) in [
        (2, ErrorCode::TemporaryResolverFailure),
        (3, ErrorCode::NameUnresolvable),
        (0, ErrorCode::NameUnresolvable),
        (5, ErrorCode::PermanentResolverFailure),
        (4, ErrorCode::PermanentResolverFailure),
    ] {
        let port = server("127.0.0.1", 0, move |question| code(question, answer));
        let resolver = resolver("nameserver 127.0.0.1\n", "", port);
        assert_eq!(ask(&resolver, "web.example").await, Err(expected), "{answer}");
    }
}

/// The second server is asked when the first one says nothing, cannot answer, or is not there; a name that does not exist
/// is nobody else's to ask.
#[tokio::test]
async fn a_server_that_does_not_answer_is_followed_by_the_next() {
    for (first, expected) in [
        (None, Ok("10.0.0.1".to_owned())),
        (Some(2), Ok("10.0.0.1".to_owned())),
        (Some(5), Ok("10.0.0.1".to_owned())),
        (Some(3), Err(ErrorCode::NameUnresolvable)),
    ] {
        let port = server("127.0.0.2", 0, move |question| code(question, first?));
        server("127.0.0.3", port, |question| address(question, [10, 0, 0, 1]));
        let servers = "nameserver 127.0.0.2\nnameserver 127.0.0.3\noptions timeout:1 attempts:1\n";
        assert_eq!(ask(&resolver(servers, "", port), "web.example").await, expected, "{first:?}");
        let absent = "nameserver 127.0.0.4\nnameserver 127.0.0.3\noptions timeout:1 attempts:1\n";
        assert_eq!(ask(&resolver(absent, "", port), "web.example").await, Ok("10.0.0.1".to_owned()));
        let silent = "nameserver 127.0.0.4\noptions timeout:1 attempts:1\n";
        let expected = Err(ErrorCode::TemporaryResolverFailure);
        assert_eq!(ask(&resolver(silent, "", port), "web.example").await, expected);
    }
}

#[test]
fn replies_about_two_families_are_one() {
    let found = |ips: &[&str], seconds| {
        let addresses = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Reply::Found(Found { addresses, ttl: Duration::from_secs(seconds) })
    };
    for (replies, expected) in [
        (vec![found(&["10.0.0.1"], 7), found(&["::1"], 5)], found(&["10.0.0.1", "::1"], 5)),
        (vec![found(&["10.0.0.1"], 7), Reply::Absent], found(&["10.0.0.1"], 7)),
        (vec![Reply::Silence, found(&["::1"], 7)], found(&["::1"], 7)),
        (vec![Reply::Absent, Reply::Absent], Reply::Absent),
        (vec![Reply::Absent, Reply::Failure], Reply::Failure),
        (vec![Reply::Failure, Reply::Silence], Reply::Silence),
        (vec![Reply::Refused], Reply::Refused),
    ] {
        assert_eq!(together(replies.clone().into_iter()), expected, "{replies:?}");
    }
}
