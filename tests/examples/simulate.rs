//! Replays one life of the simulation, step by step: `cargo run --release --example simulate -- SEED [RULE]`. With a rule, the life breaks it.
//! `--search FROM COUNT [RULE]` looks for the first seed whose life goes wrong.

use std::process::ExitCode;

use strait_tests::simulation::{Broken, Figures, live};

const USAGE: &str = "usage: simulate SEED [RULE] | simulate --search FROM COUNT [RULE]";

fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let number = |at: usize| -> Result<u64, String> {
        let text = arguments.get(at).ok_or(USAGE)?;
        text.parse()
            .map_err(|_| format!("'{text}' is no number; {USAGE}"))
    };
    let rule = |at: usize| -> Result<Option<Broken>, String> {
        arguments.get(at).map(|text| text.parse()).transpose()
    };
    if arguments.first().is_some_and(|first| first == "--search") {
        let (from, count, broken) = (number(1)?, number(2)?, rule(3)?);
        let mut sum = Figures::default();
        for seed in from..from.saturating_add(count) {
            let life = live(seed, broken, false);
            sum += life.figures;
            if let Some(fault) = life.fault {
                println!("seed {seed}: {fault}");
                return Ok(ExitCode::from(16));
            }
        }
        println!("nothing wrong in {count} lives: {sum:?}");
        return Ok(ExitCode::SUCCESS);
    }
    let life = live(number(0)?, rule(1)?, true);
    for line in &life.trace {
        println!("{line}");
    }
    println!("{:?}", life.figures);
    match life.fault {
        Some(fault) => {
            println!("WRONG: {fault}");
            Ok(ExitCode::from(16))
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    run(&arguments).unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(2)
    })
}
