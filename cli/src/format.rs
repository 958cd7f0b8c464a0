//! Numbers and tables for people.

/// `1 234 567` with commas.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12.3 MiB`.
pub(crate) fn bytes(number: u64) -> String {
    let mut value = number as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" {
                format!("{number} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// `950 ms`, `12.3 s`, `4m 05s`, `2h 03m`.
pub(crate) fn duration_ms(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{:.1} s", ms as f64 / 1000.0),
        60_000..3_600_000 => format!("{}m {:02}s", ms / 60_000, ms / 1000 % 60),
        _ => format!("{}h {:02}m", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// `4.2x`, or a dash where nothing was sent.
pub(crate) fn ratio(raw: u64, wire: u64) -> String {
    if wire == 0 {
        "-".to_owned()
    } else {
        format!("{:.1}x", raw as f64 / wire as f64)
    }
}

/// So much a second; 0 where no time has passed.
pub(crate) fn per_second(amount: u64, ms: u64) -> u64 {
    (amount * 1000).checked_div(ms).unwrap_or(0)
}

/// Seconds since 1970 as UTC; a dash for none.
pub(crate) fn time(seconds: i64) -> String {
    if seconds == 0 {
        return "-".to_owned();
    }
    let value = strait_common::value::Value::Timestamp {
        ns: i128::from(seconds) * 1_000_000_000,
        zoned: true,
    };
    value.to_string()
}

/// A table whose columns are aligned: the first `left` of them and the last one to the left, the others to the right. The last column is never
/// padded, so that narrow terminals wrap only what is long.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>], left: usize) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([header[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (at, cell) in cells.enumerate() {
            let pad = " ".repeat(widths[at].saturating_sub(cell.chars().count()));
            let last = at + 1 == header.len();
            match (at < left, last) {
                (_, true) => text.push_str(cell),
                (true, false) => text.push_str(&format!("{cell}{pad}  ")),
                (false, false) => text.push_str(&format!("{pad}{cell}  ")),
            }
        }
        text.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut header.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| line(&mut row.iter().map(String::as_str))),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(duration_ms(950), "950 ms");
        assert_eq!(duration_ms(245_000), "4m 05s");
        assert_eq!(duration_ms(7_380_000), "2h 03m");
        assert_eq!(ratio(10, 0), "-");
        assert_eq!(per_second(10, 0), 0);
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["a".to_owned(), "1".to_owned(), "done".to_owned()],
            vec!["long".to_owned(), "1,000".to_owned(), "✓".to_owned()],
        ];
        assert_eq!(
            table(&["key", "rows", "state"], &rows, 1),
            "key    rows  state\na         1  done\nlong  1,000  ✓"
        );
    }
}
