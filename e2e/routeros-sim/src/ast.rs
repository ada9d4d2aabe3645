//! The syntax tree of one console line.

use crate::schema::{Menu, Verb};

/// A binary operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `||`, `or`
    Or,
    /// `&&`, `and`
    And,
    /// `=`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `>`
    Gt,
    /// `<=`
    Le,
    /// `>=`
    Ge,
    /// `~`, POSIX extended regular expression
    Match,
    /// `in`
    In,
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `%`
    Rem,
    /// `.`
    Concat,
    /// `,`
    Join,
    /// `->`
    Index,
}

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// A word without quotes; typed where it is used.
    Bare(String),
    /// The name of a property, only inside `where`.
    Property(String),
    /// A quoted string.
    Text(Vec<Piece>),
    /// `$name`
    Var(String),
    /// `[…]`
    Command(Vec<Stmt>),
    /// `{…}` as an array literal.
    Array(Vec<(Option<Expr>, Expr)>),
    /// `!x`
    Not(Box<Expr>),
    /// `-x`
    Neg(Box<Expr>),
    /// `a op b`
    Binary(Op, Box<Expr>, Box<Expr>),
    /// `()` or `[]`
    Nil,
}

/// A piece of a quoted string.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Characters as they are.
    Literal(String),
    /// `$name`, `$(…)`, `$[…]`
    Splice(Expr),
}

/// An argument of a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Arg {
    /// `name=`, if it has one.
    pub name: Option<String>,
    /// Offset of the argument in the line.
    pub pos: usize,
    /// What stands behind it.
    pub value: ArgValue,
}

/// The value of an argument.
#[derive(Debug, Clone, PartialEq)]
pub enum ArgValue {
    /// Something to evaluate.
    Expr(Expr),
    /// `{…}` where the command takes code.
    Block(Vec<Stmt>),
}

/// Which command it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// `:put` and its like.
    Global(String),
    /// A verb of a menu.
    Menu(Menu, Verb),
    /// A name that does not exist, found at run time only (`late bad command name`).
    Unknown(String),
    /// A menu without a verb: the console moves there.
    Enter(Vec<String>),
    /// `$name args`: code in a variable.
    Call(String),
}

/// One command with its arguments.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Offset of the command in the line.
    pub pos: usize,
    /// Which one.
    pub target: Target,
    /// Its arguments in order.
    pub args: Vec<Arg>,
    /// Its condition, from `where` or from the arguments of `find`.
    pub cond: Option<Expr>,
}

/// A statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Stmt {
    /// `{…}`
    Block(Vec<Stmt>),
    /// A command.
    Command(Command),
    /// An expression that stands alone.
    Expr(Expr),
}
