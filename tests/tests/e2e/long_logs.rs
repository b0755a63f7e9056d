//! Logs of ten thousand lines, as kubectl and a log collector read them: each line once and in its place, compared with
//! what the guest is known to write.

use std::{collections::BTreeMap, fs, io::Read as _, ops::RangeInclusive};

use jiff::{Timestamp, Unit};
use k8s_openapi::api::core::v1::Pod;
use kubewasm_tests::{node::Options, wait};
use serde_json::json;

use crate::{
    collector::{Collector, WAYS},
    pods::Pods,
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// Lines that a guest writes before it pauses, and again after that.
const HALF: usize = 5_000;

fn lines(range: RangeInclusive<usize>) -> String {
    range.map(|n| format!("line {n}\n")).collect()
}

/// All that a guest of [`the_guest`] writes.
fn whole() -> String {
    lines(1..=HALF).repeat(2)
}

/// A guest that writes ten thousand lines, with a pause of two seconds in their middle.
fn the_guest(image: &str, name: &str) -> serde_json::Value {
    let half = HALF.to_string();
    let args = ["print", &half, "sleep", "2", "print", &half, "sleep", "3600"];
    json!({ "name": name, "image": image, "args": args })
}

/// One container's log, by kubectl.
struct Reader<'a> {
    namespace: &'a str,
    pod: &'a str,
}

impl Reader<'_> {
    async fn try_read(&self, flags: &[&str]) -> anyhow::Result<String> {
        let mut arguments = vec!["--namespace", self.namespace, "logs", self.pod];
        arguments.extend(flags);
        suite().await.cluster.kubectl(&arguments).await
    }

    async fn read(&self, flags: &[&str]) -> String {
        self.try_read(flags).await.unwrap()
    }

    /// Waits until a container has written all that it will.
    async fn await_whole(&self, container: &str) {
        wait::until("ten thousand lines", SOON, async || {
            // An agent that has just started asks for patience.
            let text = self.try_read(&["-c", container]).await.map_err(|error| error.to_string())?;
            if text.len() == whole().len() { Ok(()) } else { Err(format!("{} bytes", text.len())) }
        })
        .await
        .unwrap();
    }

    /// Every option, and some of them together.
    async fn check(&self, container: &str) {
        let whole = whole();
        let by = async |flags: &[&str]| self.read(&[&["-c", container], flags].concat()).await;
        assert_eq!(by(&[]).await, whole);
        for tail in [0, 1, 137, HALF, HALF + 1, 2 * HALF, 3 * HALF] {
            let expected: Vec<&str> = whole.split_inclusive('\n').collect();
            let expected = expected[expected.len().saturating_sub(tail)..].concat();
            assert_eq!(by(&[&format!("--tail={tail}")]).await, expected, "--tail={tail}");
        }
        for limit in [1, 6, 4_321, whole.len(), whole.len() + 1] {
            let expected = &whole[..limit.min(whole.len())];
            assert_eq!(by(&[&format!("--limit-bytes={limit}")]).await, expected, "--limit-bytes={limit}");
        }
        let timed = by(&["--timestamps"]).await;
        let (times, texts): (Vec<Timestamp>, Vec<&str>) = timed
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(t, l)| (t.parse::<Timestamp>().unwrap(), l))
            .unzip();
        assert_eq!(texts.join("\n") + "\n", whole);
        assert!(times.is_sorted(), "lines are in the order of their times");
        assert!(timed.lines().all(|line| line.find('Z') == Some(29)), "nine digits each");

        // Times are sent in whole seconds; the pause is longer.
        let second = times[HALF].round((Unit::Second, 1)).unwrap();
        let second = if second > times[HALF] { second - jiff::SignedDuration::from_secs(1) } else { second };
        let since = format!("--since-time={second}");
        let later = lines(1..=HALF);
        assert_eq!(by(&[&since]).await, later);
        assert_eq!(by(&["--since=1h"]).await, whole);
        assert_eq!(
            by(&[&since, &format!("--tail={}", HALF + 500)]).await,
            later,
            "the tail is counted first"
        );
        assert_eq!(by(&[&since, "--tail=500"]).await, lines(HALF - 499..=HALF));
        assert_eq!(by(&[&since, "--limit-bytes=33"]).await, later[..33]);
        assert_eq!(by(&["--tail=2", "--limit-bytes=8"]).await, lines(HALF - 1..=HALF)[..8]);
        assert_eq!(by(&["--follow", "--limit-bytes=70000"]).await, whole[..70_000]);
        assert_eq!(by(&["--follow", "--tail=3", "--limit-bytes=10"]).await, lines(HALF - 2..=HALF)[..10]);
    }
}

/// Every option of `kubectl logs`, of two containers, before and after the agent is killed and started again, and before
/// and after their worker dies.
#[tokio::test]
async fn ten_thousand_lines_by_every_option() {
    with_temp_ns(async |client, ns| {
        let mut node = own_node("long-logs-node", &Options::default()).await;
        let (pods, image) = (Pods::new(&client, ns), &suite().await.actor.tagged);
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 0,
            "containers": [the_guest(image, "one"), the_guest(image, "two")],
        });
        pods.create("long", spec).await;
        let all_run = |pod: &Pod, attempt: i32| {
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            let runs = statuses.filter(|status| {
                status.restart_count == attempt && status.state.as_ref().is_some_and(|s| s.running.is_some())
            });
            runs.count() == 2
        };
        pods.until("long", "both containers", |pod| all_run(pod, 0)).await;
        let reader = Reader { namespace: ns, pod: "long" };
        for container in ["one", "two"] {
            reader.await_whole(container).await;
            reader.check(container).await;
            let error = reader.try_read(&["-c", container, "--previous"]).await.unwrap_err().to_string();
            assert!(error.contains("previous terminated container"), "{error}");
        }
        let prefixed = |container: &str| -> String {
            whole().lines().map(|line| format!("[pod/long/{container}] {line}\n")).collect()
        };
        // kubectl reads one container after the other, in no order of its own.
        let both = async |more: &[&str]| {
            let read = reader.read(&[&["--all-containers", "--prefix"], more].concat()).await;
            let (one, two) = (prefixed("one"), prefixed("two"));
            assert!(
                read == format!("{one}{two}") || read == format!("{two}{one}"),
                "{more:?}: {}",
                read.len()
            );
        };
        both(&[]).await;

        node.kill().unwrap();
        node.start_again().await.unwrap();
        reader.await_whole("one").await;
        reader.check("one").await;
        both(&[]).await;

        node.kill_workers().await.unwrap();
        pods.until("long", "a restart of both", |pod| all_run(pod, 1)).await;
        for container in ["one", "two"] {
            assert_eq!(reader.read(&["-c", container, "--previous"]).await, whole());
            reader.await_whole(container).await;
        }
        reader.check("two").await;
        both(&["--previous"]).await;
    })
    .await;
}

/// Parts that a guest writes, a second apart.
const PARTS: usize = 10;
const PART: usize = 1_000;

/// A log that is rotated while it is followed: the follower, the files that are left, and a collector that knows nothing of
/// us each have every line once.
#[tokio::test]
async fn rotation_loses_no_line_to_followers_and_collectors() {
    with_temp_ns(async |client, ns| {
        let options = Options::default()
            .config("containerLogMaxSize", json!("100Ki"))
            .config("containerLogMaxFiles", json!(60))
            .config("containerLogMonitorInterval", json!("3s"));
        let node = own_node("rotating-node", &options).await;
        let suite = suite().await;
        let folder = suite.home.folder("collector").unwrap();
        let collector = Collector::start(&node, &folder).await;
        let pods = Pods::new(&client, ns);
        let part = PART.to_string();
        let mut args = vec!["sleep", "3"];
        args.extend(["print", part.as_str(), "sleep", "1"].repeat(PARTS));
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "containers": [{ "name": "main", "image": suite.actor.tagged, "args": args }],
        });
        pods.create("rotated", spec).await;
        let pod = pods.until("rotated", "running", crate::pods::running).await;
        let whole = lines(1..=PART).repeat(PARTS);
        let follow = ["--namespace", ns, "logs", "--follow", "rotated"];
        let followed = tokio::time::timeout(SOON, suite.cluster.kubectl(&follow)).await.expect("an end");
        assert!(followed.unwrap() == whole, "a follower has every line, and ends with its guest");
        pods.phase("rotated", "Succeeded").await;

        // What kubectl reads is the end of it: the present file.
        let present = suite.cluster.kubectl(&["--namespace", ns, "logs", "rotated"]).await.unwrap();
        assert!(present.len() < whole.len() && whole.ends_with(&present), "{} bytes", present.len());

        let dir = format!("{ns}_rotated_{}", pod.metadata.uid.unwrap());
        let dir = node.pod_logs().join(dir).join("main");
        let files = wait::until("all rotated files but the newest to be compressed", SOON, async || {
            let names = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.filter(|name| name != "0.log").collect();
            names.sort();
            let plain: Vec<_> = names.iter().filter(|name| !name.ends_with(".gz")).collect();
            if plain == names.last().into_iter().collect::<Vec<_>>() {
                Ok(names)
            } else {
                Err(format!("{names:?}"))
            }
        });
        let files = files.await.unwrap();
        assert!(files.len() >= 3, "{files:?}");
        let mut text = String::new();
        for name in files.iter().map(String::as_str).chain(["0.log"]) {
            let file = fs::File::open(dir.join(name)).unwrap();
            let mut file: Box<dyn std::io::Read> = match name.ends_with(".gz") {
                true => Box::new(flate2::read::GzDecoder::new(file)),
                false => Box::new(file),
            };
            file.read_to_string(&mut text).unwrap();
        }
        let messages: String =
            text.lines().map(|line| format!("{}\n", line.splitn(4, ' ').nth(3).unwrap())).collect();
        assert!(messages == whole, "the files together have every line");

        let expected: BTreeMap<String, usize> = (1..=PART).map(|n| (format!("line {n}"), PARTS)).collect();
        for way in WAYS {
            let what = format!("all lines by {way}");
            let seen = wait::until(&what, SOON, async || {
                let seen = collector.lines(way);
                match seen.len() >= PART * PARTS {
                    true => Ok(seen),
                    false => Err(format!("{} lines; the collector says: {}", seen.len(), collector.log())),
                }
            });
            let mut counted: BTreeMap<String, usize> = BTreeMap::new();
            for line in seen.await.unwrap() {
                assert_eq!(line.stream, "stdout");
                if way == "pods" {
                    assert_eq!(line.origin.unwrap(), [ns, "rotated", "main", "0"]);
                }
                *counted.entry(line.text).or_default() += 1;
            }
            assert!(counted == expected, "by {way}, every line came once");
        }
        drop(collector);

        // The links go with the pod.
        let links = || fs::read_dir(node.root().join("containers")).unwrap().count();
        assert_eq!(links(), 1);
        pods.api().delete("rotated", &kube::api::DeleteParams::default()).await.unwrap();
        pods.gone("rotated").await;
        wait::until("the end of the link", SOON, async || match links() {
            0 => Ok(()),
            left => Err(format!("{left} links")),
        })
        .await
        .unwrap();
    })
    .await;
}
