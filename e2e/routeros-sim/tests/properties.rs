//! What holds for every input: the parser never panics, and quoting is what it says.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use routeros_sim::parser::{Dialect, parse};
use routeros_sim::{Account, Appliance, Console, Knobs, Overrides, State, Version, log::Log};

fn dialect() -> Dialect {
    Dialect {
        version: Version(7, 24, 4),
        bad_parameter: false,
        late_bad_command: true,
    }
}

fn appliance() -> Appliance {
    let mut state = State::with_pool("pool", 1 << 40, "xfs");
    state.add_file_disk("a", "pool/a.img", 1 << 30, "x");
    Appliance::new(state, Knobs::default(), Log::default())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_a_tree_or_an_error(line in "\\PC*") {
        let _ = parse(&line, &[], &dialect());
    }

    #[test]
    fn text_made_of_the_language_is_a_tree_or_an_error(
        words in prop::collection::vec(prop::sample::select(vec![
            "/disk", "/", "print", "find", "where", "[", "]", "(", ")", "{", "}", ";", ":put", ":local", "x", "$x", "\"", "\\",
            "\\4", "=", "!=", "~", "&&", "and", "->", ".", "-", "*1F", "10", "1h2", "slot", "slot=", "do=", "on-error=", ":do",
            ":if", ":foreach", "in=", ":onerror", "$(", "$[", " ", " ", "#", "\n", "é", "!", ",", "10.0.0.1/8", ":", "add", "set",
        ]), 0..40)
    ) {
        let line = words.concat();
        if let Ok(program) = parse(&line, &[], &dialect()) {
            prop_assert!(program.len() <= line.len());
        }
    }

    #[test]
    fn running_it_never_panics(
        words in prop::collection::vec(prop::sample::select(vec![
            "/disk print ", "/disk find ", "where ", "slot=\"a\" ", "[", "]", "(", ")", "{", "}", "; ", ":put ", ":local x 1; ",
            "$x ", "->", "0 ", "as-value ", "detail ", "/file print ", "/disk set [find] ", "file-size=1G ", ":len ", "/disk add ",
            "type=file ", "file-path=pool/b.img ", "slot=b ", "/file remove ", ":pick \"é\" 0 1 ", "~\"(\" ", ":toarray ", "-1 ",
        ]), 0..12)
    ) {
        let line = words.concat();
        appliance().run(&Account::admin(), &line, &mut Console::default(), Overrides::default());
    }

    #[test]
    fn a_quoted_string_is_its_own_value(text in "\\PC{0,60}") {
        let escaped: String = text.chars().flat_map(|c| {
            let special = matches!(c, '"' | '\\' | '$');
            special.then_some('\\').into_iter().chain([c])
        }).collect();
        let line = format!(":put \"{escaped}\"");
        let out = appliance().run(&Account::admin(), &line, &mut Console::default(), Overrides::default());
        prop_assert_eq!(out.output, format!("{text}\r\n"));
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("{", "}"),
        ("!", ""),
        ("-", ""),
        ("\"$(", ")\""),
    ] {
        let line = format!(":put ({}x{})", open.repeat(20_000), close.repeat(20_000));
        assert!(parse(&line, &[], &dialect()).is_err(), "{open}");
    }
}
