//! What stops a script, as the console says it.

/// Why execution stopped.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fail {
    /// A command of a menu was refused; the location may be appended.
    Refused(String),
    /// `:error`, and errors of the language.
    Script(String),
    /// `:return`
    Return(crate::value::Value),
}

/// Result of a step of execution.
pub(crate) type Run<T> = Result<T, Fail>;

impl Fail {
    /// `no such item`
    pub(crate) fn no_such_item() -> Self {
        Self::Refused("no such item".into())
    }

    /// `invalid value for argument x`
    pub(crate) fn invalid(argument: &str) -> Self {
        Self::Refused(format!("invalid value for argument {argument}"))
    }

    /// `input does not match any value of x`
    pub(crate) fn no_match(argument: &str) -> Self {
        Self::Refused(format!("input does not match any value of {argument}"))
    }

    /// `not enough permissions (9)`
    pub(crate) fn permissions() -> Self {
        Self::Refused("not enough permissions (9)".into())
    }

    /// A refusal with its own words.
    pub(crate) fn refused(text: impl Into<String>) -> Self {
        Self::Refused(text.into())
    }

    /// An error of the language.
    pub(crate) fn script(text: impl Into<String>) -> Self {
        Self::Script(text.into())
    }

    /// The text as `$e` holds it.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Refused(t) | Self::Script(t) => t.clone(),
            Self::Return(v) => v.text(),
        }
    }
}
