//! Every file of the JSON test suite as the payload of an envelope, and as JSON text: what is no JSON is refused, and nothing
//! panics.

use std::{env, fs, path::PathBuf};

use auditcast::event::{Classifier, Options, borrowed};
use jiff::tz::TimeZone;

#[test]
fn the_json_test_suite_as_payloads() {
    let data = env::var_os("AUDITCAST_VECTORS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    let Ok(files) = fs::read_dir(data.join("json-test-suite/test_parsing")) else {
        println!("not run: no vectors");
        return;
    };
    let mut classifier = Classifier::new(Options::contract()).unwrap();
    let mut seen = [0; 3];
    for file in files {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let payload = fs::read(&path).unwrap();
        let fields = [(b"data".to_vec(), payload.clone())];
        let plain = classifier.decode(&borrowed(&fields), 0, &TimeZone::UTC).map(drop);
        let text = std::str::from_utf8(&payload).ok().map(|text| classifier.decode_json(text, 0, &TimeZone::UTC).map(drop));

        // The same payload where a value is expected, so that the top level is not what refuses it.
        let mut wrapped = b"{\"event_type\":\"x\",\"value\":".to_vec();
        wrapped.extend_from_slice(&payload);
        wrapped.push(b'}');
        let wrapped = [(b"data".to_vec(), wrapped)];
        let inside = classifier.decode(&borrowed(&wrapped), 0, &TimeZone::UTC).map(drop);

        // And as text of `details`, which is kept as text when it is no JSON.
        let flat = [(b"event_type".to_vec(), b"x".to_vec()), (b"details".to_vec(), payload.clone())];
        let flat = classifier.decode(&borrowed(&flat), 0, &TimeZone::UTC).map(drop);
        assert_eq!(flat.is_ok(), payload.len() < 65_000, "{name}");

        match name.as_bytes()[0] {
            b'n' => {
                assert!(plain.is_err(), "{name}");
                assert!(text.is_none_or(|read| read.is_err()), "{name}");
                // Two objects' worth of text can be made whole by what stands around it; none of the files is such.
                assert!(inside.is_err(), "{name} inside");
                seen[0] += 1;
            }
            b'y' => {
                assert!(inside.is_ok(), "{name} inside: {inside:?}");
                seen[1] += 1;
            }
            _ => seen[2] += 1,
        }
    }
    assert!(seen[0] >= 180 && seen[1] >= 90 && seen[2] >= 30, "{seen:?}");
}
