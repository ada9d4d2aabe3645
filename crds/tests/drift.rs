//! What is generated is committed as it is generated.

#[test]
fn generated_files_are_fresh() {
    let checked = std::process::Command::new(env!("CARGO_BIN_EXE_crdgen"))
        .arg("--check")
        .output()
        .expect("crdgen runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
