//! Derivations of whole containers, as lists of what may start, how, and from where.

mod support;

use std::{collections::BTreeMap, sync::Arc};

use lattice_derive::{
    ContainerSpec, Derivation, DeriveError, EnvValue, EnvVar, Image, ImageConfig, ServiceSpec, Settings,
};
use lattice_policy::{Entry, FileKind, Origin, Role, Scope};
use support::{DEBIAN, image, words};

const PROBE: &str = "/bin/sh|-c|curl -fs localhost:8080/healthz";

fn config(entrypoint: &str, cmd: &str) -> ImageConfig {
    ImageConfig {
        entrypoint: words(entrypoint),
        cmd: words(cmd),
        ..ImageConfig::default()
    }
}

fn container(configure: impl FnOnce(&mut ContainerSpec)) -> ContainerSpec {
    let mut container = ContainerSpec {
        name: "server".into(),
        ..ContainerSpec::default()
    };
    configure(&mut container);
    container
}

fn derive_with(image: Image, container: ContainerSpec, settings: &Settings) -> Result<Derivation, DeriveError> {
    let images = BTreeMap::from([(container.name.clone(), Arc::new(image))]);
    let service = ServiceSpec {
        name: "payment-service".into(),
        namespace: "payments".into(),
        containers: vec![container],
        init_containers: vec![],
    };
    lattice_derive::derive(&service, &images, settings).map(|mut all| all.remove(0))
}

fn derive(image: Image, container: ContainerSpec) -> Derivation {
    derive_with(image, container, &Settings::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// `PATH roles from`, with applets where there are any.
fn shown(entry: &Entry) -> String {
    let role = |role: &Role| match role {
        Role::Target => "target",
        Role::ScriptInterpreter => "script",
        Role::ElfInterpreter => "elf",
    };
    let roles: Vec<&str> = entry.roles.iter().map(role).collect();
    let from = match entry.from {
        Origin::Any => "any",
        Origin::Init => "init",
        Origin::ExecSession => "session",
    };
    let applets = if entry.applets.is_empty() {
        String::new()
    } else {
        format!(" {}", entry.applets.join(","))
    };
    format!("{} {} {from}{applets}", entry.path, roles.join("+"))
}

#[track_caller]
fn check(image: Image, container: ContainerSpec, expected: &[&str]) -> Derivation {
    let derivation = derive(image, container);
    let found: Vec<String> = derivation.policy.entries.iter().map(shown).collect();
    assert_eq!(found, expected, "{:#?}", derivation.diagnostics);
    derivation
}

#[track_caller]
fn check_error(image: Image, container: ContainerSpec, expected: &str) {
    let error = derive_with(image, container, &Settings::default())
        .unwrap_err()
        .to_string();
    assert_eq!(error, expected);
}

/// The programs of scope `declared` that a shell line in the entrypoint yields besides the shell and the loader.
#[track_caller]
fn check_line(line: &str, expected: &[&str], diagnostics: &[&str]) {
    let derivation = derive(
        image(&[DEBIAN], config("", "")),
        container(|it| it.command = ["/bin/sh", "-c", line].map(str::to_owned).to_vec()),
    );
    let usual = ["/bin/sh", "/lib64/ld-linux-x86-64.so.2"];
    let found: Vec<String> = derivation
        .policy
        .entries
        .iter()
        .map(|entry| entry.path.to_string())
        .collect();
    let found: Vec<&str> = found
        .iter()
        .map(String::as_str)
        .filter(|path| !usual.contains(path))
        .collect();
    assert_eq!(found, expected, "{line}");
    let notes: Vec<String> = derivation.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(notes.len(), diagnostics.len(), "{line}: {notes:#?}");
    for (note, part) in notes.iter().zip(diagnostics) {
        assert!(note.contains(part), "{line}: {note}");
    }
}

#[test]
fn a_static_entrypoint_is_one_entry() {
    let derivation = check(
        image(&[DEBIAN], config("/app/server", "")),
        container(|_| {}),
        &["/app/server target any"],
    );
    let entry = &derivation.policy.entries[0];
    assert_eq!(entry.kind, Some(FileKind::Elf));
    assert_eq!(entry.size_bytes, Some(11));
    assert_eq!(entry.because.len(), 3);
    assert!(
        entry.because[0].starts_with("entrypoint of image sha256:aaaa"),
        "{:?}",
        entry.because
    );
    assert!(entry.because[2].starts_with("layer sha256:0101"), "{:?}", entry.because);
}

#[test]
fn a_probe_shell_line_yields_shell_and_program_for_exec_sessions() {
    let found = check(
        image(&[DEBIAN], config("/app/server", "")),
        container(|it| it.readiness_probe = words(PROBE)),
        &[
            "/app/server target any",
            "/bin/sh target session",
            "/lib64/ld-linux-x86-64.so.2 elf session",
            "/usr/bin/curl target session",
        ],
    );
    let shell = &found.policy.entries[1];
    assert_eq!(shell.real_path.as_ref().unwrap().to_string(), "/usr/bin/dash");
    assert!(
        shell.because[0].contains("readiness probe of container server: \"/bin/sh\" \"-c\" \"curl"),
        "{:?}",
        shell.because
    );
    assert!(
        shell
            .because
            .iter()
            .any(|step| step == "symbolic link /usr/bin/sh -> dash"),
        "{:?}",
        shell.because
    );
}

#[test]
fn an_http_probe_removes_shell_and_curl() {
    let old = derive(
        image(&[DEBIAN], config("/app/server", "")),
        container(|it| it.readiness_probe = words(PROBE)),
    );
    let new = derive(image(&[DEBIAN], config("/app/server", "")), container(|_| {}));
    let changes: Vec<String> = lattice_derive::diff(&old.policy.entries, &new.policy.entries)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(changes.len(), 3, "{changes:?}");
    assert!(
        changes[0].starts_with("- /bin/sh (no longer: readiness probe"),
        "{}",
        changes[0]
    );
    assert!(changes[2].starts_with("- /usr/bin/curl"), "{}", changes[2]);
}

#[test]
fn a_shell_as_interpreter_and_as_probe_stays_two_entries() {
    let script = "script start.sh #!/bin/sh\\nexec /app/server";
    check(
        image(&[DEBIAN, script], config("/start.sh", "")),
        container(|it| it.liveness_probe = words(PROBE)),
        &[
            "/app/server target any",
            "/bin/sh script any",
            "/bin/sh target session",
            "/lib64/ld-linux-x86-64.so.2 elf any",
            "/start.sh target any",
            "/usr/bin/curl target session",
        ],
    );
}

#[test]
fn env_makes_its_program_a_target() {
    let script = "script app.py #!/usr/bin/env python3\\nprint(1)";
    let found = check(
        image(&[DEBIAN, script], config("/app.py", "")),
        container(|_| {}),
        &[
            "/app.py target any",
            "/lib64/ld-linux-x86-64.so.2 elf any",
            "/usr/bin/env script any",
            "/usr/bin/python3 target any",
        ],
    );
    let python = &found.policy.entries[3];
    assert!(
        python.because.iter().any(|step| step.contains("started by \"env\"")),
        "{:?}",
        python.because
    );
}

#[test]
fn kubernetes_override_rules() {
    let of = |configure: fn(&mut ContainerSpec)| {
        let derivation = derive(image(&[DEBIAN], config("/usr/bin/env", "curl")), container(configure));
        let is_target = |entry: &&Entry| entry.roles == [Role::Target];
        derivation
            .policy
            .entries
            .iter()
            .filter(is_target)
            .map(|entry| entry.path.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(|_| {}), ["/usr/bin/curl", "/usr/bin/env"]);
    assert_eq!(of(|it| it.args = words("wget")), ["/usr/bin/env", "/usr/bin/wget"]);
    assert_eq!(of(|it| it.command = words("/app/server")), ["/app/server"]);
    assert_eq!(
        of(|it| (it.command, it.args) = (words("env"), words("A=1|wget"))),
        ["/usr/bin/env", "/usr/bin/wget"]
    );
}

#[test]
fn variables_path_and_working_directory() {
    let variable = |name: &str, value: &str| EnvVar {
        name: name.into(),
        value: EnvValue::Literal(value.into()),
    };
    check(
        image(&[DEBIAN], config("server", "")),
        container(|it| it.env = vec![variable("DIR", "/app"), variable("PATH", "/none:$(DIR)")]),
        &["/app/server target any"],
    );
    check(
        image(
            &[DEBIAN],
            ImageConfig {
                working_dir: "/app".into(),
                ..config("./server", "")
            },
        ),
        container(|_| {}),
        &["/app/server target any"],
    );
    check(
        image(&[DEBIAN], config("curl", "")),
        container(|it| {
            it.working_dir = Some("/app".into());
            it.env = vec![variable("BIN", "server")];
            it.command = words("./$(BIN)");
        }),
        &["/app/server target any"],
    );
    check(
        image(
            &[DEBIAN],
            ImageConfig {
                env: vec![("PATH".into(), "/app".into())],
                ..config("server", "")
            },
        ),
        container(|_| {}),
        &["/app/server target any"],
    );
}

#[test]
fn errors_name_container_field_word_path_and_what_to_do() {
    let digest = format!("sha256:{}", "aa".repeat(32));
    check_error(
        image(
            &["static app/server"],
            ImageConfig {
                env: vec![("PATH".into(), "/usr/bin:/bin".into())],
                ..config("/app/server", "")
            },
        ),
        container(|it| it.readiness_probe = words("curl|localhost")),
        &format!(
            "readiness probe command \"curl\" of container server: not found in PATH /usr/bin:/bin of image {digest}; \
             install it in the image, or take it out of the command"
        ),
    );
    check_error(
        image(&["data app/server"], config("/app/server", "")),
        container(|_| {}),
        &format!(
            "entrypoint command \"/app/server\" of container server: /app/server is in the image, but is not executable \
             (no x permission), in image {digest}; correct the path, or add the file to the image"
        ),
    );
    check_error(
        image(&["elf app/server"], config("/app/server", "")),
        container(|_| {}),
        &format!(
            "entrypoint command \"/app/server\" of container server: /app/server needs the interpreter \
             /lib64/ld-linux-x86-64.so.2, but the image has no executable file at /lib64/ld-linux-x86-64.so.2; add the interpreter to image {digest}"
        ),
    );
    check_error(
        image(&[DEBIAN], config("", "")),
        container(|_| {}),
        &format!("container server: neither image {digest} nor the container names a command; set command"),
    );
    check_error(
        image(&["link a b\nlink b a"], config("/a", "")),
        container(|_| {}),
        &format!(
            "entrypoint command \"/a\" of container server: /a leads through more than 40 symbolic links, in image {digest}; \
             correct the path, or add the file to the image"
        ),
    );
}

#[test]
fn wrappers_start_what_they_name() {
    let tini = "elf sbin/tini\nelf usr/sbin/gosu";
    check(
        image(
            &[DEBIAN, tini],
            config("/sbin/tini|-g|--|gosu|nobody|env|A=1", "/app/server|-v"),
        ),
        container(|_| {}),
        &[
            "/app/server target any",
            "/lib64/ld-linux-x86-64.so.2 elf any",
            "/sbin/tini target any",
            "/usr/bin/env target any",
            "/usr/sbin/gosu target any",
        ],
    );
}

#[test]
fn shell_lines() {
    check_line("curl a && wget b", &["/usr/bin/curl", "/usr/bin/wget"], &[]);
    check_line("exec curl a", &["/usr/bin/curl"], &[]);
    check_line("echo $(curl a) `wget b`", &["/usr/bin/curl", "/usr/bin/wget"], &[]);
    check_line("A=1 /usr/bin/env B=2 curl a", &["/usr/bin/curl", "/usr/bin/env"], &[]);
}

#[test]
fn what_only_a_run_can_tell_is_said_and_not_listed() {
    check_line(
        "$PROGRAM a; curl b",
        &["/usr/bin/curl"],
        &["cannot be known before it runs: line 1 starts \"$PROGRAM\""],
    );
    check_line("eval \"$LINE\"", &[], &["cannot be known"]);
    check_line("eval 'curl a'", &["/usr/bin/curl"], &[]);
    check_line("./*.sh", &[], &["cannot be known"]);
    check_line(
        "PATH=$X; curl a; /usr/bin/wget b",
        &["/usr/bin/wget"],
        &["PATH is set by what runs before"],
    );
}

#[test]
fn alternatives_may_be_missing() {
    check_line("curl a || fetch b", &["/usr/bin/curl"], &["\"fetch\""]);
    check_line(
        "if command -v fetch; then fetch b; fi; curl a",
        &["/usr/bin/curl"],
        &["\"fetch\""],
    );
    check_line("f() { curl a; }; f", &["/usr/bin/curl"], &[]);
    check_line("PATH=/app:$PATH; server", &["/app/server"], &[]);
    check_line("cd /app && ./server", &["/app/server"], &[]);
    check_line("trap 'curl a' EXIT", &["/usr/bin/curl"], &[]);
}

#[test]
fn entrypoint_scripts_start_their_arguments() {
    let script = "script entry.sh #!/bin/sh\\nset -e\\nif [ \"${1#-}\" != \"$1\" ]; then set -- server \"$@\"; fi\\n\
                  missing-tool\\nexec \"$@\"";
    let of = |cmd: &str| {
        let path = ImageConfig {
            env: vec![("PATH".into(), "/usr/bin:/app".into())],
            ..config("/entry.sh", cmd)
        };
        derive(image(&[DEBIAN, script], path), container(|_| {}))
    };
    let paths = |found: &Derivation| {
        found
            .policy
            .entries
            .iter()
            .map(|entry| entry.path.to_string())
            .collect::<Vec<_>>()
    };
    assert!(paths(&of("curl|x")).contains(&"/usr/bin/curl".to_owned()));
    let found = of("--port|80");
    assert!(paths(&found).contains(&"/app/server".to_owned()), "{:?}", paths(&found));
    let notes: Vec<String> = found.diagnostics.iter().map(ToString::to_string).collect();
    assert!(notes.iter().any(|note| note.contains("\"missing-tool\"")), "{notes:?}");
}

#[test]
fn folders_of_scripts() {
    let folder = "
        script d/10-a #!/bin/sh\\ncurl a
        script d/20.sh #!/bin/sh\\nwget b
        script entry.sh #!/bin/sh\\nfor f in /d/*.sh; do \"$f\"; done
    ";
    let paths = |command: &str| {
        let found = derive(
            image(&[DEBIAN, folder, "elf bin/run-parts"], config(command, "")),
            container(|_| {}),
        );
        found
            .policy
            .entries
            .iter()
            .map(|entry| entry.path.to_string())
            .collect::<Vec<_>>()
    };
    let found = paths("/bin/run-parts|/d");
    assert!(
        found.contains(&"/d/10-a".into()) && !found.contains(&"/d/20.sh".into()),
        "{found:?}"
    );
    assert!(found.contains(&"/usr/bin/curl".into()), "{found:?}");
    let found = paths("/entry.sh");
    assert!(
        found.contains(&"/d/20.sh".into()) && !found.contains(&"/d/10-a".into()),
        "{found:?}"
    );
    assert!(found.contains(&"/usr/bin/wget".into()), "{found:?}");
}

#[test]
fn multicall_programs_name_their_applets() {
    let busybox = "multicall bin/busybox\nlink bin/sh busybox\nhard bin/wget bin/busybox\nstatic app/server";
    let found = check(
        image(&[busybox], config("/app/server", "")),
        container(|it| it.readiness_probe = words("sh|-c|wget -q localhost")),
        &["/app/server target any", "/bin/sh target session sh,wget"],
    );
    assert_eq!(found.policy.entries[1].kind, Some(FileKind::Multicall));
    let found = derive(
        image(&[busybox], config("/bin/busybox|sh|-c|wget a", "")),
        container(|_| {}),
    );
    assert_eq!(shown(&found.policy.entries[0]), "/bin/busybox target any busybox,wget");
    assert!(
        found.diagnostics[0].to_string().contains("may run any of its applets"),
        "{}",
        found.diagnostics[0]
    );
}

#[test]
fn interpreters_of_interpreters_end_at_five() {
    let chain = |count: usize| {
        let line = |number: usize| format!("script s{number} #!/s{}\\n\n", number + 1);
        (0..count).map(line).collect::<String>() + &format!("static s{count}")
    };
    derive(image(&[&chain(5)], config("/s0", "")), container(|_| {}));
    let error = derive_with(
        image(&[&chain(6)], config("/s0", "")),
        container(|_| {}),
        &Settings::default(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("more than 5 interpreters"), "{error}");
}

#[test]
fn scope_image_lists_every_executable_and_loaders_only_as_loaders() {
    let settings = Settings {
        scope: Scope::Image,
        ..Settings::default()
    };
    let found = derive_with(
        image(&[DEBIAN], config("/app/server", "")),
        container(|_| {}),
        &settings,
    )
    .unwrap();
    let lines: Vec<String> = found.policy.entries.iter().map(shown).collect();
    for expected in [
        "/lib64/ld-linux-x86-64.so.2 elf any",
        "/usr/bin/wget target any",
        "/bin/sh target+script any",
    ] {
        assert!(lines.contains(&expected.to_owned()), "{expected}: {lines:#?}");
    }
    assert!(
        !lines
            .iter()
            .any(|line| line.contains("ld-linux") && line.contains("target")),
        "{lines:#?}"
    );
}

#[test]
fn permitted_utilities_are_for_exec_sessions_and_may_be_missing() {
    let settings = Settings {
        utilities: vec!["sleep".into(), "strace".into()],
        ..Settings::default()
    };
    let found = derive_with(
        image(&[DEBIAN], config("/app/server", "")),
        container(|_| {}),
        &settings,
    )
    .unwrap();
    let lines: Vec<String> = found.policy.entries.iter().map(shown).collect();
    assert!(lines.contains(&"/usr/bin/sleep target session".to_owned()), "{lines:?}");
    assert_eq!(lines.len(), 3, "{lines:?}");
}

#[test]
fn a_service_is_all_or_nothing() {
    let image = Arc::new(image(&[DEBIAN], config("/app/server", "")));
    let good = container(|_| {});
    let bad = ContainerSpec {
        name: "init-db".into(),
        command: words("/missing"),
        ..ContainerSpec::default()
    };
    let images = BTreeMap::from([("server".to_owned(), image.clone()), ("init-db".to_owned(), image)]);
    let mut service = ServiceSpec {
        name: "payment-service".into(),
        namespace: "payments".into(),
        containers: vec![good],
        init_containers: vec![bad],
    };
    let settings = Settings::default();
    let error = lattice_derive::derive(&service, &images, &settings)
        .unwrap_err()
        .to_string();
    assert!(error.contains("of container init-db"), "{error}");
    service.init_containers[0].command = words("curl");
    let names: Vec<String> = lattice_derive::derive(&service, &images, &settings)
        .unwrap()
        .into_iter()
        .map(|one| one.policy.name)
        .collect();
    assert_eq!(names, ["payment-service.init-db", "payment-service"]);
    service.init_containers[0].name = "server".into();
    let error = lattice_derive::derive(&service, &images, &settings)
        .unwrap_err()
        .to_string();
    assert!(error.contains("two containers have the name server"), "{error}");
}

#[test]
fn setuid_is_said() {
    let found = derive(
        image(&[DEBIAN, "setuid bin/su2"], config("/bin/su2", "")),
        container(|_| {}),
    );
    assert!(
        found.policy.entries[0]
            .because
            .contains(&"note: setuid or setgid (mode 4755)".to_owned())
    );
    assert_eq!(found.evidence[0].mode, 0o4755);
}

#[test]
fn scripts_that_start_each_other_end() {
    let scripts = "script a #!/bin/sh\\n/b x\nscript b #!/bin/sh\\n/a x; exec \"$0\" \"$@\" y";
    let found = derive(image(&[DEBIAN, scripts], config("/a", "")), container(|_| {}));
    assert!(found.policy.entries.iter().any(|entry| entry.path.to_string() == "/b"));
}

#[test]
fn the_same_input_gives_the_same_output() {
    let once = || {
        let probe = container(|it| it.readiness_probe = words(PROBE));
        let settings = Settings {
            scope: Scope::Image,
            ..Settings::default()
        };
        derive_with(image(&[DEBIAN], config("/app/server", "")), probe, &settings).unwrap()
    };
    assert_eq!(once(), once());
}

#[test]
fn the_loader_is_no_program() {
    let started = |command: &str| {
        derive_with(
            image(&[DEBIAN], config(command, "")),
            container(|_| {}),
            &Settings::default(),
        )
    };
    for command in [
        "/lib64/ld-linux-x86-64.so.2|/app/server",
        "env|/usr/lib64/ld-linux-x86-64.so.2|/app/server",
    ] {
        let error = started(command).unwrap_err().to_string();
        assert!(
            error.contains("is the ELF loader, which may serve as interpreter only"),
            "{error}"
        );
    }
}
