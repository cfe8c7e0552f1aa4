//! Pages of synthetic records: what is in them is no measurement.

use std::collections::BTreeMap;

use roxmltree::{Document, ParsingOptions};

use super::*;
use crate::bench::compare::Comparison;
use crate::bench::record::{CountsRecord, Failure, Kind, Record, Roofs, Stop, Timing};

pub fn gpu() -> Record {
    read(include_str!("../fixtures/synthetic-gpu.json"))
}

pub fn emulated() -> Record {
    read(include_str!("../fixtures/synthetic-emulated.json"))
}

fn read(text: &str) -> Record {
    serde_json::from_str(text).expect("a record")
}

fn none() -> Record {
    Record { rows: Vec::new(), roofs: None, control: None, ..gpu() }
}

/// The page's body, which is XML too: checks that it is whole and that every length is a number.
fn checked(page: &str) -> String {
    let body = &page[page.find("<body>").expect("a body")..page.find("</body>").expect("its end") + 7];
    check_xml(body);
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    body.to_owned()
}

fn check_xml(text: &str) {
    let options = ParsingOptions { nodes_limit: u32::MAX, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).expect("markup");
    let mut ids = std::collections::HashSet::new();
    for node in document.descendants() {
        for attribute in node.attributes() {
            let (name, value) = (attribute.name(), attribute.value());
            assert!(name != "id" || ids.insert(value), "two are called {value}");
            let is_length =
                ["x", "y", "x1", "x2", "y1", "y2", "dx", "width", "height", "data-order"].contains(&name);
            if is_length {
                let number: f64 = value.trim_end_matches('%').parse().expect(value);
                assert!(number.is_finite(), "{name}={value}");
            }
            if name == "d" {
                assert!(!value.contains("NaN") && !value.contains("inf"), "{value}");
            }
            if name == "aria-labelledby" {
                let named = |id: &str| document.descendants().any(|node| node.attribute("id") == Some(id));
                assert!(value.split(' ').all(named), "{value}");
            }
        }
    }
}

fn svgs(record: &Record) -> Vec<String> {
    [roofline_svg(record), bars_svg(record)].into_iter().flatten().collect()
}

#[test]
fn a_page_says_what_was_run_and_where() {
    let record = gpu();
    let page = checked(&html(&record, None));
    for said in
        ["synthetic GPU", "bench --op", "Roofline", "Times", "Samples", "×\u{a0}floor", "peer A", "disturbed"]
    {
        assert!(page.contains(said), "{said}");
    }
    for row in &record.rows {
        let label = figures::label(row);
        assert!(page.contains(&label), "{label}");
    }
    let pictures = svgs(&record);
    assert_eq!(pictures.len(), 2);
    pictures.iter().for_each(|svg| check_xml(svg));
}

#[test]
fn counts_are_never_called_times() {
    let mut record = emulated();
    // As if a file had both.
    record.rows[0].times = gpu().rows[0].times.clone();
    record.roofs = gpu().roofs;
    let page = checked(&html(&record, None));
    assert!(page.contains("no time was measured"));
    for time in ["µs", "FLOP/s", "Samples", "×\u{a0}floor", "Roofline"] {
        assert!(!page.contains(time), "{time}");
    }
    let pictures = svgs(&record);
    assert_eq!(pictures.len(), 2);
    for svg in &pictures {
        check_xml(svg);
        assert!(svg.contains("Counts of the emulated Hopper"), "{svg}");
        assert!(!svg.contains("µs") && !svg.contains("FLOP/s"));
    }
}

#[test]
fn a_fake_clock_is_called_one_on_the_page_and_on_each_picture() {
    let mut record = gpu();
    record.device.kind = Kind::FakeGpu;
    assert!(checked(&html(&record, None)).contains("tell nothing about a GPU"));
    for svg in svgs(&record) {
        assert!(svg.contains("tell nothing about a GPU"));
    }
}

#[test]
fn texts_of_others_are_no_markup() {
    const EVIL: &str =
        "</title></style></script><script>alert('&\"')</script>\u{0}\u{1b}[2J\u{202e}]]>\u{ffff}";
    for mut record in [gpu(), emulated()] {
        record.package = EVIL.to_owned();
        record.version = EVIL.to_owned();
        record.command = vec![EVIL.to_owned()];
        record.device.name = EVIL.to_owned();
        record.device.driver = Some(EVIL.to_owned());
        record.device.capability = Some(EVIL.to_owned());
        if let Some(control) = &mut record.control {
            control.name = EVIL.to_owned();
        }
        for row in &mut record.rows {
            let texts = [
                &mut row.who,
                &mut row.operation,
                &mut row.title,
                &mut row.shape,
                &mut row.data,
                &mut row.instance,
            ];
            texts.into_iter().for_each(|text| text.insert_str(0, EVIL));
            row.name.push_str(EVIL);
            row.reason = Some(EVIL.to_owned());
            row.failure = row.failure.take().map(|failure| Failure { why: EVIL.to_owned(), ..failure });
            if let Some(counts) = &mut row.counts {
                counts.wgmmas = BTreeMap::from([(EVIL.to_owned(), 3)]);
            }
        }
        let page = html(&record, None);
        checked(&page);
        assert_eq!(page.matches("<script>").count(), 1);
        for control in ['\u{0}', '\u{1b}', '\u{202e}', '\u{ffff}'] {
            assert!(!page.contains(control), "{control:?}");
        }
        svgs(&record).iter().for_each(|svg| check_xml(svg));
    }
}

#[test]
fn an_empty_record_has_a_page() {
    let mut record = none();
    checked(&html(&record, None));
    assert_eq!(svgs(&record), [""; 0]);
    record.device.kind = Kind::Emulated;
    record.device.multiprocessors = 0;
    checked(&html(&record, None));
    assert_eq!(svgs(&record), [""; 0]);
}

#[test]
fn every_row_alone_has_a_page_with_and_without_what_may_be_missing() {
    for full in [gpu(), emulated()] {
        for row in &full.rows {
            for roofs in [full.roofs, None, Some(Roofs { copy: 0.0, tensor: -1.0 })] {
                let mut record = Record { rows: vec![row.clone()], roofs, ..full.clone() };
                checked(&html(&record, None));
                record.rows[0].times.clear();
                record.rows[0].counts = None;
                checked(&html(&record, None));
                assert_eq!(svgs(&record), [""; 0]);
            }
        }
    }
}

/// Zeros, what no machine does, and what only a broken file says.
#[test]
fn no_number_of_a_file_leaves_the_picture() {
    let numbers = [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, 5e-324, f64::MAX, 1e-6];
    let sizes = [0, 1, u64::MAX];
    for number in numbers {
        for size in sizes {
            for mut record in [gpu(), emulated()] {
                record.roofs = record.roofs.map(|_| Roofs { copy: number, tensor: 1.0 / number });
                for row in &mut record.rows {
                    (row.flops, row.bytes, row.worst) = (size, size, Some(number));
                    let timing = |seconds| Timing { seconds, stop: Stop::Time, state: None, disturbed: true };
                    row.times = BTreeMap::from([
                        ("cold".to_owned(), timing(vec![number])),
                        ("warm".to_owned(), timing(vec![number, 1e-6, 2e-6])),
                        ("host".to_owned(), timing(Vec::new())),
                    ]);
                    row.counts = row.counts.take().map(|counts| CountsRecord {
                        columns: size,
                        busiest_cta_columns: size,
                        tensor_flops: size,
                        sums: counts.sums.into_keys().map(|name| (name, size)).collect(),
                        wgmmas: BTreeMap::from([("m64n8k32.e4m3".to_owned(), size)]),
                    });
                }
                checked(&html(&record, None));
                svgs(&record).iter().for_each(|svg| check_xml(svg));
            }
        }
    }
}

#[test]
fn a_thousand_rows_have_a_page() {
    for small in [gpu(), emulated()] {
        let rows = small.rows.iter().cycle().take(1000).enumerate().map(|(place, row)| {
            let mut row = row.clone();
            row.name = format!("{}/{}", row.name, place / small.rows.len());
            row
        });
        let record = Record { rows: rows.collect(), ..small.clone() };
        let page = html(&record, None);
        checked(&page);
        assert!(page.len() < 12 << 20, "{} bytes", page.len());
    }
}

#[test]
fn a_comparison_names_every_verdict_and_problem() {
    let (old, mut new) = (gpu(), gpu());
    let factors = [1.0, 1.2, 0.8];
    for (row, factor) in new.rows.iter_mut().filter(|row| row.who == "ours").zip(factors.into_iter().cycle())
    {
        row.times.values_mut().flat_map(|timing| &mut timing.seconds).for_each(|second| *second *= factor);
    }
    let missing = new.rows.iter().rposition(|row| row.who == "ours" && row.failure.is_none()).unwrap();
    new.rows.remove(missing);
    let comparison = Comparison::of(&old, &new);
    let page = checked(&html(&new, Some(&comparison)));
    for said in ["SAME", "SLOWER", "FASTER", "is missing", "disturbed"] {
        assert!(page.contains(said), "{said}");
    }

    let (old, mut new) = (emulated(), emulated());
    new.rows[0].counts.as_mut().unwrap().sums.insert("mbarrier_waits".to_owned(), 1);
    let page = checked(&html(&new, Some(&Comparison::of(&old, &new))));
    assert!(page.contains("mbarrier_waits") && page.contains("FASTER") && !page.contains("µs"));

    let other = Comparison { rows: Vec::new(), problems: vec!["another device: <a> & b".to_owned()] };
    assert!(checked(&html(&new, Some(&other))).contains("&lt;a&gt; &amp; b"));
}
