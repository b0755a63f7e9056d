//! What of a group has to accept a request: `a() || (b() && !c())`.
//!
//! It is what upstream's expressions are made of: members, which are called without arguments, `true` and `false`, `!`, `&&`,
//! `||` and parentheses, with the usual precedence.

mod tokens;

#[cfg(test)]
mod tests;

use self::tokens::{Token, Tokens};

/// Most bytes of an expression, 16 KiB.
pub const LONGEST_EXPRESSION: usize = 16 << 10;
/// How deep `!` and parentheses may lie within each other.
const DEEPEST: usize = 64;

/// An expression whose members are all there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression(Term);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Constant(bool),
    Member(String),
    Not(Box<Term>),
    /// At least two.
    And(Vec<Term>),
    /// At least two.
    Or(Vec<Term>),
}

/// An expression that cannot be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidExpression {
    /// It says nothing.
    #[error("it is empty; call members of the group in it, as in `a() || (b() && c())`")]
    Empty,
    /// It is not written as one.
    #[error("at character {at}: there is {found} where {wanted} is expected")]
    Unexpected {
        /// Counted from 1.
        at: usize,
        /// What is there.
        found: String,
        /// What may be.
        wanted: &'static str,
    },
    /// It calls somebody who is not there.
    #[error("at character {at}: {name}() is no member of the group; its members are {members}")]
    Unknown {
        /// Counted from 1.
        at: usize,
        /// Who is called.
        name: String,
        /// Who could be.
        members: String,
    },
    /// It is too deep.
    #[error("at character {at}: `!` and parentheses lie more than {DEEPEST} deep")]
    Deep {
        /// Counted from 1.
        at: usize,
    },
    /// It is too long.
    #[error("it has {0} bytes, and may have {LONGEST_EXPRESSION}")]
    Long(usize),
}

/// Whether this can be called in an expression.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    let begins = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    begins && characters.all(|c| c.is_ascii_alphanumeric() || c == '_') && !matches!(text, "true" | "false")
}

impl Expression {
    /// Reads an expression that calls some of these members.
    ///
    /// # Errors
    /// [`InvalidExpression`].
    pub fn parse<'a>(
        text: &str,
        members: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidExpression> {
        if text.len() > LONGEST_EXPRESSION {
            return Err(InvalidExpression::Long(text.len()));
        }
        let tokens = Tokens::read(text)?;
        if tokens.is_empty() {
            return Err(InvalidExpression::Empty);
        }
        let members: Vec<&str> = members.into_iter().collect();
        let mut parser = Parser { tokens, members: &members, depth: 0 };
        let term = parser.any()?;
        parser.expect(&Token::End, "`&&`, `||` or the end")?;
        Ok(Self(term))
    }

    /// The value, as far as these verdicts of members tell. Members are looked at from the left, and only where it depends on them.
    ///
    /// # Errors
    /// The member whose verdict is needed next.
    pub fn decide(&self, verdict: &dyn Fn(&str) -> Option<bool>) -> Result<bool, &str> {
        self.0.decide(verdict)
    }
}

impl Term {
    // It is no deeper than what was parsed.
    fn decide(&self, verdict: &dyn Fn(&str) -> Option<bool>) -> Result<bool, &str> {
        match self {
            Self::Constant(value) => Ok(*value),
            Self::Member(name) => verdict(name).ok_or(name),
            Self::Not(term) => Ok(!term.decide(verdict)?),
            Self::And(terms) => first(terms, false, verdict),
            Self::Or(terms) => first(terms, true, verdict),
        }
    }
}

/// `value` as soon as a term has it, else its opposite.
fn first<'a>(
    terms: &'a [Term],
    value: bool,
    verdict: &dyn Fn(&str) -> Option<bool>,
) -> Result<bool, &'a str> {
    for term in terms {
        if term.decide(verdict)? == value {
            return Ok(value);
        }
    }
    Ok(!value)
}

struct Parser<'a> {
    tokens: Tokens,
    members: &'a [&'a str],
    depth: usize,
}

impl Parser<'_> {
    /// Terms with `||` between them.
    fn any(&mut self) -> Result<Term, InvalidExpression> {
        let mut terms = vec![self.all()?];
        while self.tokens.take(&Token::Or) {
            terms.push(self.all()?);
        }
        Ok(one_or(terms, Term::Or))
    }

    /// Terms with `&&` between them.
    fn all(&mut self) -> Result<Term, InvalidExpression> {
        let mut terms = vec![self.one()?];
        while self.tokens.take(&Token::And) {
            terms.push(self.one()?);
        }
        Ok(one_or(terms, Term::And))
    }

    fn one(&mut self) -> Result<Term, InvalidExpression> {
        let (at, token) = self.tokens.next();
        match token {
            Token::Not => {
                let term = self.deeper(at, Self::one)?;
                Ok(Term::Not(Box::new(term)))
            }
            Token::Open => {
                let term = self.deeper(at, Self::any)?;
                self.expect(&Token::Close, "`&&`, `||` or `)`")?;
                Ok(term)
            }
            Token::Name(name) if name == "true" || name == "false" => Ok(Term::Constant(name == "true")),
            Token::Name(name) => {
                if !self.members.contains(&&*name) {
                    let members = self.members.join(", ");
                    return Err(InvalidExpression::Unknown { at, name, members });
                }
                self.expect(&Token::Open, "`()`, since members are called")?;
                self.expect(&Token::Close, "`)`, since members are called without arguments")?;
                Ok(Term::Member(name))
            }
            found => Err(unexpected(at, &found, "a member, `true`, `false`, `!` or `(`")),
        }
    }

    fn deeper(
        &mut self,
        at: usize,
        parse: impl FnOnce(&mut Self) -> Result<Term, InvalidExpression>,
    ) -> Result<Term, InvalidExpression> {
        if self.depth == DEEPEST {
            return Err(InvalidExpression::Deep { at });
        }
        self.depth += 1;
        let term = parse(self);
        self.depth -= 1;
        term
    }

    fn expect(&mut self, token: &Token, wanted: &'static str) -> Result<(), InvalidExpression> {
        match self.tokens.next() {
            (_, found) if found == *token => Ok(()),
            (at, found) => Err(unexpected(at, &found, wanted)),
        }
    }
}

/// The term that is alone, or what makes one of several.
fn one_or(mut terms: Vec<Term>, several: impl FnOnce(Vec<Term>) -> Term) -> Term {
    match terms.pop() {
        Some(term) if terms.is_empty() => term,
        Some(last) => {
            terms.push(last);
            several(terms)
        }
        None => several(terms),
    }
}

fn unexpected(at: usize, found: &Token, wanted: &'static str) -> InvalidExpression {
    InvalidExpression::Unexpected { at, found: found.to_string(), wanted }
}
