//! Literals and operators of DolphinDB's own language, with what SQL writes instead.

/// What to write instead of the first foreign form in a text, if there is one. Quoted parts are nobody's language.
pub(super) fn hint(text: &str) -> Option<String> {
    let mut outside = String::with_capacity(text.len());
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                outside.push(' ');
            }
            None => outside.push(c),
        }
    }
    let words =
        outside.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '_')));
    if let Some((word, ours)) = words
        .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .find_map(|word| Some((word, literal(word)?)))
    {
        return Some(format!("'{word}' is DolphinDB's form; write {ours}"));
    }
    if let Some((theirs, ours)) = [("==", "="), ("&&", "and"), ("||", "or")]
        .into_iter()
        .find(|(theirs, _)| outside.contains(theirs))
    {
        return Some(format!("'{theirs}' is DolphinDB's form; write {ours}"));
    }
    let at = outside.find('`')?;
    let names = outside[at..]
        .split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '`')))
        .next()?;
    let ours: Vec<String> = names[1..]
        .split('`')
        .take(3)
        .map(|name| format!("'{name}'"))
        .collect();
    Some(format!(
        "'{names}' is DolphinDB's form; write {}",
        ours.join(", ")
    ))
}

/// What SQL writes for a word that begins with a digit and is no number of SQL.
fn literal(word: &str) -> Option<String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (day, time) = match word.split_once(['T', ':']) {
        Some((day, time)) if day.matches('.').count() == 2 => (day, Some(time)),
        _ => (word, None),
    };
    if let [year, month, day] = day.split('.').collect::<Vec<_>>().as_slice()
        && year.len() == 4
        && [*year, *month, *day].into_iter().all(digits)
    {
        // A pair `2026.11.01:2026.11.05` has a day on both sides.
        return Some(match time {
            Some(time) if time.contains(':') => {
                format!("timestamp '{year}-{month:0>2}-{day:0>2} {time}'")
            }
            _ => format!("date '{year}-{month:0>2}-{day:0>2}'"),
        });
    }
    if let Some((year, month)) = word
        .strip_suffix('M')
        .and_then(|month| month.split_once('.'))
        && digits(year)
        && digits(month)
    {
        return Some(format!(
            "the month's days, from date '{year}-{month:0>2}-01' on"
        ));
    }
    let clock = word.strip_suffix('m').unwrap_or(word);
    if clock.contains(':')
        && clock
            .split([':', '.'])
            .enumerate()
            .all(|(at, part)| digits(part) && (at > 2 || part.len() == 2))
    {
        return Some(format!("time '{clock}'"));
    }
    let number = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &word[number.len()..] {
        "w" => "week",
        "d" => "day",
        "h" | "H" => "hour",
        "m" => "minute",
        "s" => "second",
        _ => return None,
    };
    digits(number).then(|| format!("interval '{number}' {unit}"))
}
