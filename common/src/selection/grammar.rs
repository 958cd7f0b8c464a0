//! The part of SQL that a condition may be written in, as a dialect of `sqlparser`.
//!
//! The parser itself tries many readings of what begins an expression, and goes back when one fails: `date(date(…` or `a.a.a…` of some sixty levels
//! take it longer than anyone waits. Here the next two tokens decide, so reading is linear in the text.

use sqlparser::ast::{Expr, UnaryOperator};
use sqlparser::dialect::{Dialect, Precedence};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

/// The functions of time.
const FUNCTIONS: [&str; 4] = ["now", "today", "date", "timestamp"];

#[derive(Debug)]
pub(super) struct Conditions;

/// The words and signs of a text.
pub(super) fn tokens(text: &str) -> Result<Vec<TokenWithSpan>, ParserError> {
    let tokens = Tokenizer::new(&Conditions, text).tokenize_with_location()?;
    for token in &tokens {
        let wrong = match &token.token {
            Token::Period => "a column is written alone, without its table and a point",
            Token::LBracket | Token::LBrace => "brackets are written as ( and )",
            _ => continue,
        };
        return Err(ParserError::ParserError(format!(
            "'{}': {wrong}{}",
            token.token, token.span.start
        )));
    }
    Ok(tokens)
}

impl Dialect for Conditions {
    fn is_identifier_start(&self, c: char) -> bool {
        c.is_alphabetic() || c == '_'
    }

    fn is_identifier_part(&self, c: char) -> bool {
        c.is_alphanumeric() || c == '_' || c == '$'
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        let next = &parser.peek_nth_token_ref(1).token;
        let wrong = |text: String| Some(Err(ParserError::ParserError(text)));
        let word = match &parser.peek_token_ref().token {
            Token::Word(word) => word.clone(),
            // Numbers, texts, signs and brackets.
            _ => return None,
        };
        if word.quote_style.is_none() {
            match (word.keyword, next) {
                (Keyword::NOT, _) => {
                    parser.advance_token();
                    let binds = self.prec_value(Precedence::UnaryNot);
                    let inner = parser.parse_subexpr(binds);
                    return Some(inner.map(|inner| Expr::UnaryOp {
                        op: UnaryOperator::Not,
                        expr: Box::new(inner),
                    }));
                }
                (Keyword::NULL | Keyword::TRUE | Keyword::FALSE, _) => return None,
                (_, Token::LParen) if FUNCTIONS.contains(&word.value.to_lowercase().as_str()) => {
                    return None;
                }
                (_, Token::LParen) => {
                    return wrong(format!(
                        "'{}(' is not understood; there are now(), today(), date(x) and timestamp(x)",
                        word.value
                    ));
                }
                (Keyword::INTERVAL, Token::SingleQuotedString(_) | Token::Number(..))
                | (
                    Keyword::DATE | Keyword::TIME | Keyword::TIMESTAMP | Keyword::DATETIME,
                    Token::SingleQuotedString(_),
                ) => return None,
                (Keyword::TIME | Keyword::TIMESTAMP, Token::Word(with))
                    if matches!(with.keyword, Keyword::WITH | Keyword::WITHOUT) =>
                {
                    return None;
                }
                (_, Token::SingleQuotedString(_)) => {
                    return wrong(format!(
                        "'{} …' is no literal that is understood; write the text alone, or date, time or timestamp before it",
                        word.value
                    ));
                }
                _ => {}
            }
        }
        let at = parser.next_token();
        Some(Ok(Expr::Identifier(word.into_ident(at.span))))
    }

    fn parse_infix(
        &self,
        parser: &mut Parser,
        _left: &Expr,
        _precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        // A query within a condition would be read, and only then refused.
        let is_in = |at: usize| matches!(&parser.peek_nth_token_ref(at).token, Token::Word(word) if word.keyword == Keyword::IN);
        let begins = match &parser.peek_token_ref().token {
            Token::Word(word) if word.keyword == Keyword::IN => 2,
            Token::Word(word) if word.keyword == Keyword::NOT && is_in(1) => 3,
            _ => return None,
        };
        match &parser.peek_nth_token_ref(begins).token {
            Token::Word(word)
                if word.quote_style.is_none()
                    && matches!(
                        word.keyword,
                        Keyword::SELECT | Keyword::WITH | Keyword::VALUES
                    ) =>
            {
                Some(Err(ParserError::ParserError(
                    "a list of values stands after in, not a query".to_owned(),
                )))
            }
            _ => None,
        }
    }
}
