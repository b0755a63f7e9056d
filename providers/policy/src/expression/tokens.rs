//! The words of an expression, and where they are.

use std::fmt;

use super::InvalidExpression;

/// A word of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Name(String),
    Not,
    And,
    Or,
    Open,
    Close,
    /// There is nothing more.
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Name(name) => name,
            Self::Not => "!",
            Self::And => "&&",
            Self::Or => "||",
            Self::Open => "(",
            Self::Close => ")",
            Self::End => return f.write_str("the end"),
        };
        write!(f, "`{text}`")
    }
}

/// The words that are left.
#[derive(Debug)]
pub(super) struct Tokens {
    /// In reverse, with the character at which each begins, counted from 1.
    left: Vec<(usize, Token)>,
    /// The number of the character after the last.
    end: usize,
}

impl Tokens {
    pub(super) fn read(text: &str) -> Result<Self, InvalidExpression> {
        let mut left = Vec::new();
        let mut characters = (1..).zip(text.chars()).peekable();
        while let Some((at, character)) = characters.next() {
            let token = match character {
                ' ' | '\t' | '\r' | '\n' => continue,
                '(' => Token::Open,
                ')' => Token::Close,
                '!' => Token::Not,
                '&' if characters.next_if(|(_, next)| *next == '&').is_some() => Token::And,
                '|' if characters.next_if(|(_, next)| *next == '|').is_some() => Token::Or,
                'a'..='z' | 'A'..='Z' | '_' => {
                    let mut name = String::from(character);
                    while let Some((_, next)) =
                        characters.next_if(|(_, next)| next.is_ascii_alphanumeric() || *next == '_')
                    {
                        name.push(next);
                    }
                    Token::Name(name)
                }
                other => {
                    return Err(InvalidExpression::Unexpected {
                        at,
                        found: format!("{other:?}"),
                        wanted: "a call of a member, `!`, `&&`, `||` or a parenthesis",
                    });
                }
            };
            left.push((at, token));
        }
        left.reverse();
        Ok(Self { left, end: text.chars().count() + 1 })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub(super) fn next(&mut self) -> (usize, Token) {
        self.left.pop().unwrap_or((self.end, Token::End))
    }

    /// Takes the next one if it is this.
    pub(super) fn take(&mut self, token: &Token) -> bool {
        self.left.pop_if(|(_, next)| next == token).is_some()
    }
}
