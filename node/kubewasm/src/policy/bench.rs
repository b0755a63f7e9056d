//! `kubewasm policy bench`: how long a policy takes.

mod statistics;

use std::time::{Duration, Instant};

use anyhow::ensure;
use kubewasm_policy::evaluator::Call;
use kubewasm_policy::verdict::Ended;

use self::statistics::{Estimate, estimate};
use super::evaluation::{Evaluation, EvaluationArgs};
use crate::module::{self, ModuleSession};

/// Arguments of `kubewasm policy bench`.
#[derive(Debug, clap::Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    evaluation: EvaluationArgs,

    /// How long the policy is called before anything is measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(..=3600))]
    warm_up_time: u64,

    /// How long the policy is measured, if that suffices for the samples.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(..=3600))]
    measurement_time: u64,

    /// How many samples are taken.
    #[arg(
        long, alias = "sample-size", value_name = "NUM", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(2..=10_000)
    )]
    num_samples: u32,

    /// How often the samples are drawn again to tell how certain the mean is.
    #[arg(
        long, value_name = "NUM", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    num_resamples: u32,
}

/// How it is measured.
#[derive(Clone, Copy)]
struct Plan {
    warm_up: Duration,
    measurement: Duration,
    samples: u32,
    resamples: u32,
}

pub(super) async fn run(session: &ModuleSession, args: BenchArgs) -> anyhow::Result<()> {
    let plan = Plan {
        warm_up: Duration::from_secs(args.warm_up_time),
        measurement: Duration::from_secs(args.measurement_time),
        samples: args.num_samples,
        resamples: args.num_resamples,
    };
    let begun = Instant::now();
    let evaluation = Evaluation::prepare(session, args.evaluation).await?;
    let prepared = begun.elapsed();
    let begun = Instant::now();
    evaluation.check_settings().await?;
    let first = begun.elapsed();
    module::print(|out| {
        writeln!(out, "{:<24}time:   [{}]", "prepare (cold)", duration(prepared))?;
        writeln!(out, "{:<24}time:   [{}]", "first call", duration(first))
    })?;
    let settings = evaluation.settings.document();
    measured("validate_settings", &evaluation, Call::ValidateSettings, &settings, plan).await?;
    let question = evaluation.question.document(&evaluation.settings);
    measured("validate", &evaluation, Call::Validate, &question, plan).await?;
    evaluation.write_session()
}

async fn measured(
    name: &str,
    evaluation: &Evaluation,
    call: Call,
    document: &[u8],
    plan: Plan,
) -> anyhow::Result<()> {
    let Evaluation { evaluator, program, .. } = evaluation;
    let once = async || {
        let ended = evaluator.call(program, call, document).await;
        if let Ended::Failed { reason } = &ended {
            anyhow::bail!("{name}: the policy fails: {reason}");
        }
        Ok(())
    };
    let begun = Instant::now();
    let mut calls = 0_u32;
    while calls == 0 || begun.elapsed() < plan.warm_up {
        once().await?;
        calls = calls.saturating_add(1);
    }
    let each = begun.elapsed() / calls;
    let repeats = repeats(each, plan);
    let mut samples = Vec::new();
    for _ in 0..plan.samples {
        let begun = Instant::now();
        for _ in 0..repeats {
            once().await?;
        }
        samples.push(begun.elapsed().as_secs_f64() / f64::from(repeats));
    }
    ensure!(!samples.is_empty(), "nothing was measured");
    let Estimate { low, mean, high } = estimate(&samples, plan.resamples);
    let [low, mean, high] = [low, mean, high].map(|seconds| duration(Duration::from_secs_f64(seconds)));
    module::print(|out| writeln!(out, "{name:<24}time:   [{low} {mean} {high}]"))
}

/// Calls of one sample, so that all samples take as long as they should.
fn repeats(each: Duration, plan: Plan) -> u32 {
    let of_sample = plan.measurement / plan.samples;
    let times = of_sample.as_nanos() / each.as_nanos().max(1);
    u32::try_from(times).unwrap_or(u32::MAX).max(1)
}

/// With four digits and a unit, as criterion prints it.
fn duration(duration: Duration) -> String {
    let nanos = duration.as_secs_f64() * 1e9;
    let (value, unit) = match nanos {
        nanos if nanos < 1e3 => (nanos, "ns"),
        nanos if nanos < 1e6 => (nanos / 1e3, "µs"),
        nanos if nanos < 1e9 => (nanos / 1e6, "ms"),
        nanos => (nanos / 1e9, "s"),
    };
    let digits = match value {
        value if value < 10.0 => 4,
        value if value < 100.0 => 3,
        value if value < 1000.0 => 2,
        _ => 1,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_that_fits() {
        for (nanos, expected) in [
            (0, "0.0000 ns"),
            (999, "999.00 ns"),
            (1_500, "1.5000 µs"),
            (12_345_678, "12.346 ms"),
            (3_000_000_000, "3.0000 s"),
            (1_234_500_000_000, "1234.5 s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), expected);
        }
    }

    #[test]
    fn samples_take_as_long_as_they_should() {
        let plan =
            Plan { warm_up: Duration::ZERO, measurement: Duration::from_secs(5), samples: 100, resamples: 1 };
        assert_eq!(repeats(Duration::from_millis(1), plan), 50);
        assert_eq!(repeats(Duration::from_secs(1), plan), 1);
        assert_eq!(repeats(Duration::ZERO, plan), 50_000_000);
    }
}
