use std::{cell::RefCell, collections::BTreeMap};

use proptest::prelude::*;

use super::*;

const MEMBERS: [&str; 4] = ["a", "b", "c", "d_1"];

fn parse(text: &str) -> Result<Expression, InvalidExpression> {
    Expression::parse(text, MEMBERS)
}

/// The value with these verdicts, and the members that were asked, in their order.
fn value(text: &str, verdicts: &BTreeMap<&str, bool>) -> (bool, Vec<String>) {
    let expression = parse(text).unwrap();
    let mut known = BTreeMap::new();
    let mut asked = Vec::new();
    loop {
        match expression.decide(&|name| known.get(name).copied()) {
            Ok(value) => return (value, asked),
            Err(name) => {
                assert!(known.insert(name, verdicts[name]).is_none(), "{name} was asked twice");
                asked.push(name.to_owned());
            }
        }
    }
}

#[test]
fn members_are_asked_when_it_depends_on_them() {
    let verdicts = BTreeMap::from([("a", false), ("b", true), ("c", false), ("d_1", true)]);
    for (text, expected, asked) in [
        ("a()", false, &["a"][..]),
        ("a() || (b() && c())", false, &["a", "b", "c"]),
        ("a() || b() || c()", true, &["a", "b"]),
        ("a() && b()", false, &["a"]),
        ("!a()", true, &["a"]),
        ("!!b()&&!(a()||c())", true, &["b", "a", "c"]),
        ("true || a()", true, &[]),
        ("false && a()", false, &[]),
        // && binds more tightly.
        ("b() || a() && c()", true, &["b"]),
        ("(b() || a()) && c()", false, &["b", "c"]),
        ("a() || a() || d_1()", true, &["a", "d_1"]),
        (" b (\n) \t|| c()\r\n", true, &["b"]),
    ] {
        let (value, was_asked) = value(text, &verdicts);
        assert_eq!(
            (value, &*was_asked),
            (expected, &*asked.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()),
            "{text}"
        );
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, expected) in [
        ("", "it is empty; call members of the group in it, as in `a() || (b() && c())`"),
        (" \n", "it is empty; call members of the group in it, as in `a() || (b() && c())`"),
        ("a", "at character 2: there is the end where `()`, since members are called is expected"),
        ("a() b()", "at character 5: there is `b` where `&&`, `||` or the end is expected"),
        (
            "a() ||",
            "at character 7: there is the end where a member, `true`, `false`, `!` or `(` is expected",
        ),
        ("(a()", "at character 5: there is the end where `&&`, `||` or `)` is expected"),
        ("a())", "at character 4: there is `)` where `&&`, `||` or the end is expected"),
        (
            "a(b())",
            "at character 3: there is `b` where `)`, since members are called without arguments is expected",
        ),
        (
            "a() & b()",
            "at character 5: there is '&' where a call of a member, `!`, `&&`, `||` or a parenthesis is expected",
        ),
        (
            "1 + 1",
            "at character 1: there is '1' where a call of a member, `!`, `&&`, `||` or a parenthesis is expected",
        ),
        (
            "é()",
            "at character 1: there is 'é' where a call of a member, `!`, `&&`, `||` or a parenthesis is expected",
        ),
        ("true()", "at character 5: there is `(` where `&&`, `||` or the end is expected"),
        ("a() && e()", "at character 8: e() is no member of the group; its members are a, b, c, d_1"),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
    }
}

#[test]
fn depth_and_length_are_bounded() {
    let nested = |depth: usize| format!("{}a(){}", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&nested(DEEPEST)).is_ok());
    assert_eq!(parse(&nested(DEEPEST + 1)), Err(InvalidExpression::Deep { at: DEEPEST + 1 }));
    assert_eq!(parse(&"!".repeat(10_000)), Err(InvalidExpression::Deep { at: DEEPEST + 1 }));
    let long = "a()||".repeat(LONGEST_EXPRESSION / 5 + 1) + "a()";
    assert_eq!(parse(&long), Err(InvalidExpression::Long(long.len())));
    assert!(parse(&("a()||".repeat(3000) + "a()")).is_ok(), "a long row is not deep");
}

#[test]
fn names_are_those_that_can_be_called() {
    for (text, expected) in [
        ("a", true),
        ("_a1", true),
        ("1a", false),
        ("a-b", false),
        ("", false),
        ("true", false),
        ("ä", false),
    ] {
        assert_eq!(is_name(text), expected, "{text}");
    }
}

/// A term, its text, and what it is worth.
fn terms() -> impl Strategy<Value = Term> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Term::Constant),
        prop::sample::select(&MEMBERS[..]).prop_map(|name| Term::Member(name.to_owned())),
    ];
    leaf.prop_recursive(6, 40, 4, |inner| {
        let several = || prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            inner.clone().prop_map(|term| Term::Not(Box::new(term))),
            several().prop_map(Term::And),
            several().prop_map(Term::Or),
        ]
    })
}

fn text(term: &Term) -> String {
    let joined =
        |terms: &[Term], with: &str| format!("({})", terms.iter().map(text).collect::<Vec<_>>().join(with));
    match term {
        Term::Constant(value) => value.to_string(),
        Term::Member(name) => format!("{name}()"),
        Term::Not(term) => format!("!{}", text(term)),
        Term::And(terms) => joined(terms, " && "),
        Term::Or(terms) => joined(terms, "||"),
    }
}

/// What a term is worth when all is known, without any order.
fn worth(term: &Term, verdicts: &BTreeMap<&str, bool>) -> bool {
    match term {
        Term::Constant(value) => *value,
        Term::Member(name) => verdicts[&**name],
        Term::Not(term) => !worth(term, verdicts),
        Term::And(terms) => terms.iter().all(|term| worth(term, verdicts)),
        Term::Or(terms) => terms.iter().any(|term| worth(term, verdicts)),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(term in terms()) {
        prop_assert_eq!(parse(&text(&term)).unwrap().0, term);
    }

    #[test]
    fn its_value_is_that_of_its_verdicts(term in terms(), given in prop::array::uniform4(any::<bool>())) {
        let verdicts: BTreeMap<&str, bool> = MEMBERS.into_iter().zip(given).collect();
        let (value, _) = value(&text(&term), &verdicts);
        prop_assert_eq!(value, worth(&term, &verdicts));
    }

    /// The member that is needed next is asked for, and none is looked at behind it.
    #[test]
    fn nobody_is_looked_at_before_it_matters(term in terms()) {
        let looked_at = RefCell::new(Vec::new());
        let expression = Expression(term);
        let decided = expression.decide(&|name| {
            looked_at.borrow_mut().push(name.to_owned());
            None
        });
        let expected: Vec<String> = decided.err().map(str::to_owned).into_iter().collect();
        prop_assert_eq!(looked_at.into_inner(), expected);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[a-e!&|()\\s0-9ü]{0,60}") {
        if let Err(InvalidExpression::Unexpected { at, .. } | InvalidExpression::Unknown { at, .. }) = parse(&text) {
            prop_assert!((1..=text.chars().count() + 1).contains(&at));
        }
    }
}
