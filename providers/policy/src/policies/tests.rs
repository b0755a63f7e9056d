use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::metadata::ContextAwareResource;

fn mistakes(text: &str) -> Vec<String> {
    let InvalidPolicies(mistakes) = parse(text.as_bytes()).unwrap_err();
    mistakes.iter().map(ToString::to_string).collect()
}

#[test]
fn a_policy_has_what_the_file_says() {
    let text = r"
    plain: { module: registry://example.dev/p:v1 }
    whole:
      url: file:///srv/p.wasm
      settings: { a: [1, x], 'y': null }
      policyMode: monitor
      allowedToMutate: true
      message: not like this
      contextAwareResources: [{ apiVersion: v1, kind: Namespace }]
      timeoutEvalSeconds: 5
    ";
    let policies = parse(text.as_bytes()).unwrap();
    let plain = PolicySpec {
        program: ProgramSpec {
            module: "registry://example.dev/p:v1".into(),
            settings: Settings::default(),
            context_aware_resources: [].into(),
            timeout: None,
        },
        mode: Mode::Protect,
        allowed_to_mutate: false,
        message: None,
    };
    assert_eq!(policies["plain"], Spec::Policy(plain));
    let settings = json!({ "a": [1, "x"], "y": null });
    let whole = PolicySpec {
        program: ProgramSpec {
            module: "file:///srv/p.wasm".into(),
            settings: Settings::from(settings.as_object().unwrap().clone()),
            context_aware_resources: [ContextAwareResource {
                api_version: "v1".into(),
                kind: "Namespace".into(),
            }]
            .into(),
            timeout: Some(Duration::from_secs(5)),
        },
        mode: Mode::Monitor,
        allowed_to_mutate: true,
        message: Some("not like this".into()),
    };
    assert_eq!(policies["whole"], Spec::Policy(whole));
    assert_eq!(policies.len(), 2);
}

#[test]
fn a_group_has_members() {
    let text = "
    g: { policies: { a: { module: r.io/a, timeoutEvalSeconds: 1 }, b: { url: r.io/b, settings: { x: 1 } } },
         expression: a() || b(), message: neither, policyMode: monitor }
    ";
    let policies = parse(text.as_bytes()).unwrap();
    let Spec::Group(group) = &policies["g"] else { panic!("{policies:?}") };
    assert_eq!((&*group.expression, &*group.message, group.mode), ("a() || b()", "neither", Mode::Monitor));
    assert_eq!(group.policies["a"].timeout, Some(Duration::from_secs(1)));
    assert_eq!((&*group.policies["b"].module, group.policies.len()), ("r.io/b", 2));
}

#[test]
fn nothing_is_no_mistake() {
    for text in ["", "{}", "# nothing yet\n"] {
        assert_eq!(parse(text.as_bytes()), Ok(BTreeMap::new()), "{text:?}");
    }
}

#[test]
fn each_mistake_names_its_policy_and_field() {
    for (text, expected) in [
        ("p: { settings: {} }", "p.module: it is missing: "),
        ("p: { module: a, url: b }", "p.url: `module` says it already"),
        ("p: { module: 1 }", "p.module: it is not a text"),
        (
            "p: { module: a, setting: {} }",
            "p.setting: there is no such field; the fields are module, url, settings, ",
        ),
        ("p: { module: a, settings: [1] }", "p.settings: it is not an object"),
        ("p: { module: a, policyMode: watch }", "p.policyMode: it is `protect` or `monitor`, not \"watch\""),
        ("p: { module: a, allowedToMutate: 1 }", "p.allowedToMutate: it is not true or false"),
        ("p: { module: a, timeoutEvalSeconds: 0 }", "p.timeoutEvalSeconds: it is 1 to 30"),
        ("p: { module: a, timeoutEvalSeconds: 2s }", "p.timeoutEvalSeconds: it is not a whole number"),
        (
            "p: { module: a, contextAwareResources: [{ kind: Pod }] }",
            "p.contextAwareResources: it is not a list of `apiVersion`",
        ),
        ("p: { module: a, expression: a() }", "p.expression: there is no such field"),
        ("p: 1", "p: it is no object"),
        ("p/q: { module: a }", "\"p/q\": an id is a text"),
        ("1: { module: a }", "1: an id is a text"),
        ("g: { policies: {}, expression: a(), message: m }", "g.policies: it has 0 members"),
        ("g: { policies: { a: { module: a } }, message: m }", "g.expression: it is missing"),
        ("g: { policies: { a: { module: a } }, expression: a() }", "g.message: it is missing"),
        (
            "g: { policies: { a: { module: a } }, expression: b(), message: m }",
            "g.expression: at character 1: b() is no member",
        ),
        (
            "g: { policies: { a-b: { module: a } }, expression: 'true', message: m }",
            "g.policies: \"a-b\" cannot be called",
        ),
        ("g: { policies: { a: {} }, expression: a(), message: m }", "g.policies.a.module: it is missing"),
        (
            "g: { policies: { a: { module: a, policyMode: protect } }, expression: a(), message: m }",
            "g.policies.a.policyMode: there is no such field",
        ),
        ("- p", "it is no object of policies by their ids"),
        ("p: { module: a }\np: { module: b }", "it is no object of policies by their ids: duplicate entry"),
    ] {
        let found = mistakes(text);
        assert!(found.iter().any(|mistake| mistake.starts_with(expected)), "{text}: {found:?}");
    }
}

#[test]
fn all_mistakes_are_told() {
    let found = mistakes("p: { policyMode: 1, x: 1 }\nq: { module: a }\nr: []");
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn sizes_are_bounded() {
    let many: String = (0..=MOST_POLICIES).map(|index| format!("p{index}: {{ module: a }}\n")).collect();
    assert!(mistakes(&many)[0].contains("4097 policies, and may have 4096"));
    let long = vec![b'#'; LONGEST_FILE + 1];
    assert!(parse(&long).unwrap_err().to_string().contains("more than 16 MiB"));
    // What names itself again and again does not grow without end.
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\n\
                e: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g]\n";
    assert!(mistakes(bomb)[0].contains("repetition limit"), "{:?}", mistakes(bomb));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        let _ = parse(text.as_bytes());
    }
}
