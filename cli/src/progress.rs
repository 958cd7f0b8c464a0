//! A run as it goes on: one bar on a terminal, one line every few seconds elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use strait_proto::v1;

use crate::format;
use crate::report::Output;

/// Between two lines where nothing can be redrawn.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The display of one run. Clones are the same display.
#[derive(Clone, Debug)]
pub(crate) struct Display {
    bar: Option<ProgressBar>,
    lines: bool,
    quiet: bool,
    last_line: Option<Instant>,
}

impl Display {
    pub(crate) fn new(output: &Output) -> Display {
        let bar = output.live.then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(8));
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {wide_msg}");
            bar.set_style(
                style
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> "),
            );
            bar
        });
        Display {
            bar,
            lines: !output.live && !output.quiet,
            quiet: output.quiet,
            last_line: None,
        }
    }

    pub(crate) fn show(&mut self, run: &v1::Run) {
        let progress = run.progress.clone().unwrap_or_default();
        let settled = progress.partitions_done
            + progress.partitions_already
            + progress.partitions_failed
            + progress.partitions_dropped;
        let text = line(run, &progress);
        if let Some(bar) = &self.bar {
            bar.set_length(progress.partitions.max(1));
            bar.set_position(settled);
            bar.set_message(text);
        } else if self.lines
            && self
                .last_line
                .is_none_or(|last| last.elapsed() >= LINE_INTERVAL)
        {
            self.last_line = Some(Instant::now());
            eprintln!("{settled}/{} partitions  {text}", progress.partitions);
        }
    }

    /// A remark above the bar.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None if self.quiet => {}
            None => eprintln!("{text}"),
        }
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The most important thing first, since narrow terminals cut the rest off.
fn line(run: &v1::Run, progress: &v1::Progress) -> String {
    if run.phase != "copying" {
        let message = if run.message.is_empty() {
            String::new()
        } else {
            format!(": {}", run.message)
        };
        return format!(
            "{}{message}",
            if run.phase.is_empty() {
                &run.status
            } else {
                &run.phase
            }
        );
    }
    let ms = progress.elapsed_ms;
    let mut parts = vec![
        format!(
            "{} rows/s",
            format::count(format::per_second(progress.rows_sent, ms))
        ),
        format!(
            "{}/s",
            format::bytes(format::per_second(progress.raw_bytes, ms))
        ),
        format!(
            "wire {}/s {}",
            format::bytes(format::per_second(progress.wire_bytes, ms)),
            format::ratio(progress.raw_bytes, progress.wire_bytes)
        ),
    ];
    if let Some(eta_ms) = progress.eta_ms {
        parts.push(format!("ETA {}", format::duration_ms(eta_ms)));
    }
    if progress.partitions_failed > 0 {
        parts.push(format!("{} failed", progress.partitions_failed));
    }
    parts.extend(progress.current.first().cloned());
    parts.join("  ")
}
