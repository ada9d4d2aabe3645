//! The parser of values and expressions: quoted strings with escapes and interpolation, brackets, operators, `where`.

use crate::ast::{Expr, Op, Piece};
use crate::parser::{Parsed, Parser};

impl Parser<'_> {
    /// The value of an argument. `chain` allows `->` behind it, as global commands do.
    pub(crate) fn argument(&mut self, chain: bool) -> Parsed<Expr> {
        let row = self.row.take();
        let value = self.nested(|p| p.argument_value(chain));
        self.row = row;
        value
    }

    fn argument_value(&mut self, chain: bool) -> Parsed<Expr> {
        let start = self.pos;
        let mut value = match self.peek() {
            Some(b'"' | b'[' | b'(' | b'$' | b'{') => self.primary()?,
            None | Some(b' ' | b'\t' | b';' | b'\r' | b'\n' | b'}' | b']' | b')') => Expr::Text(Vec::new()),
            Some(_) => {
                let word = self.take_while(|c| {
                    !matches!(
                        c,
                        b' ' | b'\t'
                            | b'\r'
                            | b'\n'
                            | b';'
                            | b'"'
                            | b'\''
                            | b'='
                            | b'('
                            | b')'
                            | b'$'
                            | b'['
                            | b']'
                            | b'{'
                            | b'}'
                            | b'`'
                    )
                });
                if word.is_empty() {
                    return self.fail("syntax error", start);
                }
                Expr::Bare(word)
            }
        };
        while chain && self.eat("->") {
            let key = self.primary()?;
            value = Expr::Binary(Op::Index, Box::new(value), Box::new(key));
        }
        // A value ends at a blank or at the end of the command: `a$b` and `"a"b` are refused.
        match self.peek() {
            None | Some(b' ' | b'\t' | b';' | b'\r' | b'\n' | b'}' | b']' | b')') => Ok(value),
            Some(_) => self.fail("expected end of command", self.pos),
        }
    }

    /// An expression, as it stands in parentheses and behind `where`.
    pub(crate) fn expr(&mut self) -> Parsed<Expr> {
        self.nested(|p| {
            let mut left = p.and_expr()?;
            loop {
                p.gap();
                if p.eat("||") || p.word("or") {
                    let right = p.and_expr()?;
                    left = Expr::Binary(Op::Or, Box::new(left), Box::new(right));
                } else {
                    return Ok(left);
                }
            }
        })
    }

    /// Blanks between tokens; a line break ends a condition but not a parenthesis.
    fn gap(&mut self) {
        self.spaces();
    }

    fn and_expr(&mut self) -> Parsed<Expr> {
        let mut left = self.comparison()?;
        loop {
            self.gap();
            if self.eat("&&") || self.word("and") {
                let right = self.comparison()?;
                left = Expr::Binary(Op::And, Box::new(left), Box::new(right));
            } else {
                return Ok(left);
            }
        }
    }

    fn comparison(&mut self) -> Parsed<Expr> {
        self.gap();
        let mut left = self.sum()?;
        loop {
            self.gap();
            let op = if self.eat("!=") {
                Op::Ne
            } else if self.eat("<=") {
                Op::Le
            } else if self.eat(">=") {
                Op::Ge
            } else if self.eat("=") {
                Op::Eq
            } else if self.eat("<") {
                Op::Lt
            } else if self.eat(">") {
                Op::Gt
            } else if self.eat("~") {
                Op::Match
            } else if self.word("in") {
                Op::In
            } else {
                return Ok(left);
            };
            self.gap();
            // The right side is a literal: barewords there are text, not properties.
            let row = self.row.take();
            let right = self.sum();
            self.row = row;
            left = Expr::Binary(op, Box::new(left), Box::new(right?));
        }
    }

    fn sum(&mut self) -> Parsed<Expr> {
        let mut left = self.product()?;
        loop {
            self.gap();
            let op = match (self.peek(), self.at(1)) {
                (Some(b'+'), _) => Op::Add,
                (Some(b'-'), n) if n != Some(b'>') => Op::Sub,
                (Some(b'.'), n) if !(self.row.is_some() && n == Some(b'i')) => Op::Concat,
                (Some(b','), _) => Op::Join,
                _ => return Ok(left),
            };
            self.pos += 1;
            self.gap();
            let right = self.product()?;
            left = Expr::Binary(op, Box::new(left), Box::new(right));
        }
    }

    fn product(&mut self) -> Parsed<Expr> {
        let mut left = self.unary()?;
        loop {
            self.gap();
            let op = match self.peek() {
                Some(b'*') => Op::Mul,
                Some(b'/') => Op::Div,
                Some(b'%') => Op::Rem,
                _ => return Ok(left),
            };
            self.pos += 1;
            self.gap();
            let right = self.unary()?;
            left = Expr::Binary(op, Box::new(left), Box::new(right));
        }
    }

    fn unary(&mut self) -> Parsed<Expr> {
        self.nested(|p| {
            p.gap();
            if p.eat("!") {
                return Ok(Expr::Not(Box::new(p.unary()?)));
            }
            if p.peek() == Some(b'-') && !p.at(1).is_some_and(|c| c.is_ascii_digit()) {
                p.pos += 1;
                return Ok(Expr::Neg(Box::new(p.unary()?)));
            }
            let mut value = p.primary()?;
            while p.eat("->") {
                let key = p.primary()?;
                value = Expr::Binary(Op::Index, Box::new(value), Box::new(key));
            }
            Ok(value)
        })
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let start = self.pos;
        match self.peek() {
            Some(b'"') => self.text(),
            Some(b'$') => {
                self.pos += 1;
                Ok(Expr::Var(self.variable_name()?))
            }
            Some(b'(') => {
                self.pos += 1;
                self.blanks();
                if self.eat(")") {
                    return Ok(Expr::Nil);
                }
                let inner = self.expr()?;
                self.blanks();
                if self.eat(")") {
                    Ok(inner)
                } else {
                    self.fail("expected closing bracket", self.pos)
                }
            }
            Some(b'[') => {
                self.pos += 1;
                let row = self.row.take();
                let body = self.nested(|p| p.statements(Some(b']')));
                self.row = row;
                let body = body?;
                Ok(if body.is_empty() {
                    Expr::Nil
                } else {
                    Expr::Command(body)
                })
            }
            Some(b'{') => self.array(),
            Some(c) if c.is_ascii_alphanumeric() || matches!(c, b'/' | b'*' | b'-' | b'.' | b'_' | b':' | b'<') => {
                let word = self.bareword();
                if word.is_empty() {
                    return self.fail("syntax error", start);
                }
                let Some(menu) = self.row else {
                    return Ok(Expr::Bare(word));
                };
                let number = word.bytes().next().is_some_and(|c| c.is_ascii_digit() || c == b'*');
                if number || matches!(word.as_str(), "yes" | "no" | "true" | "false") {
                    return Ok(Expr::Bare(word));
                }
                if menu.has_property(&word, self.dialect.version) {
                    return Ok(Expr::Property(word));
                }
                if self.dialect.bad_parameter {
                    return self.fail(&format!("bad parameter {word}"), start);
                }
                self.fail("expected end of command", start)
            }
            _ => self.fail("syntax error", start),
        }
    }

    fn bareword(&mut self) -> String {
        let start = self.pos;
        let digits = self.take_while(|c| c.is_ascii_digit());
        // `5-3`, `10/3` and `2*3` are arithmetic; `10.0.0.0/8` and `1h2` are words.
        if !digits.is_empty() && matches!(self.peek(), Some(b'-' | b'/' | b'*' | b'+')) {
            let mut end = self.pos + 1;
            while self.src.get(end).is_some_and(u8::is_ascii_digit) {
                end += 1;
            }
            let stops = !self
                .src
                .get(end)
                .is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b':'));
            if stops {
                return digits;
            }
        }
        while let Some(c) = self.peek() {
            let first = self.pos == start;
            let inside = c.is_ascii_alphanumeric()
                || matches!(c, b'_' | b'.' | b'/' | b':' | b'@' | b'\\')
                || c >= 0x80
                || (c == b'-' && self.at(1) != Some(b'>'))
                || (first && matches!(c, b'*' | b'<'))
                || (c == b'>' && self.src.get(start) == Some(&b'<'));
            if !inside {
                break;
            }
            self.pos += 1;
        }
        self.slice(start, self.pos)
    }

    fn array(&mut self) -> Parsed<Expr> {
        self.pos += 1;
        let row = self.row.take();
        let result = self.nested(|p| {
            let mut members = Vec::new();
            loop {
                p.blanks();
                while p.peek() == Some(b';') {
                    p.pos += 1;
                    p.blanks();
                }
                if p.eat("}") {
                    return Ok(Expr::Array(members));
                }
                if p.peek().is_none() {
                    return p.fail("expected closing brace", p.pos);
                }
                let mut member = p.sum()?;
                p.spaces();
                let mut key = None;
                if p.eat("=") {
                    key = Some(member);
                    p.spaces();
                    member = p.sum()?;
                }
                members.push((key, member));
                p.blanks();
                if !matches!(p.peek(), Some(b';' | b'}') | None) {
                    return p.fail("syntax error", p.pos);
                }
            }
        });
        self.row = row;
        result
    }

    /// A string in quotes. A `$` that starts no variable must be written `\$`.
    fn text(&mut self) -> Parsed<Expr> {
        self.pos += 1;
        let row = self.row.take();
        let mut pieces = Vec::new();
        let mut literal: Vec<u8> = Vec::new();
        loop {
            let at = self.pos;
            let Some(c) = self.peek() else {
                return self.fail("expected closing quote", at);
            };
            self.pos += 1;
            match c {
                b'"' => break,
                b'\\' => literal.push(self.escape(at)?),
                b'$' => {
                    let splice = match self.peek() {
                        Some(b'(' | b'[') => self.primary()?,
                        Some(c) if c.is_ascii_alphanumeric() => Expr::Var(self.variable_name()?),
                        _ => return self.fail("syntax error", at),
                    };
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(String::from_utf8_lossy(&literal).into_owned()));
                        literal.clear();
                    }
                    pieces.push(Piece::Splice(splice));
                }
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(String::from_utf8_lossy(&literal).into_owned()));
        }
        self.row = row;
        Ok(Expr::Text(pieces))
    }

    fn escape(&mut self, at: usize) -> Parsed<u8> {
        let Some(c) = self.peek() else {
            return self.fail("syntax error", at);
        };
        self.pos += 1;
        Ok(match c {
            b'"' | b'\\' | b'$' | b'?' => c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'_' => b' ',
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            c => {
                let hex = |c: u8| match c {
                    b'0'..=b'9' => Some(c - b'0'),
                    b'A'..=b'F' => Some(c - b'A' + 10),
                    _ => None,
                };
                match (hex(c), self.peek().and_then(hex)) {
                    (Some(high), Some(low)) => {
                        self.pos += 1;
                        high * 16 + low
                    }
                    _ => return self.fail("syntax error", at),
                }
            }
        })
    }
}
