//! What the provider counts of itself: compilations, the modules that it had compiled already, instances, workers, and
//! images that were refused.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use kubewasm_host::INSTANTIATION_BUCKETS_MICROS;
use kubewasm_kubelet::{
    runtime::ImageError,
    traces::{self, SpanKind},
};
use kubewasm_modules::{Compiler, Facts, PrecompileError};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use crate::supervisor::WorkerTally;

/// Seconds; compiling takes from some milliseconds to minutes.
const COMPILE: [f64; 12] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verdict {
    verdict: &'static str,
}

/// Counts of the provider. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct ProviderMetrics {
    compilations: Family<Outcome, Histogram, fn() -> Histogram>,
    lookups: Family<Outcome, Counter>,
    verdicts: Family<Verdict, Counter>,
}

impl Default for ProviderMetrics {
    fn default() -> Self {
        Self {
            compilations: Family::new_with_constructor(|| Histogram::new(COMPILE)),
            lookups: Family::default(),
            verdicts: Family::default(),
        }
    }
}

impl ProviderMetrics {
    /// Shows them, and what is counted of workers, among the metrics of `registry`.
    pub(super) fn register(&self, registry: &mut Registry, workers: Arc<WorkerTally>) {
        let help = "Seconds that the compiler took for a module, by what came of it: ok, invalid (it cannot be compiled), failed";
        registry.register("kubewasm_compile_duration_seconds", help, self.compilations.clone());
        let help = "Modules of containers that were looked up compiled: hit (the node had the code), miss (it was compiled)";
        registry.register("kubewasm_code_cache_lookups", help, self.lookups.clone());
        let help = "Images that were pulled or looked up and were to be used, by what the signature policy says of them";
        registry.register("kubewasm_image_policy_verdicts", help, self.verdicts.clone());
        registry.register_collector(Box::new(Workers(workers)));
    }

    /// A module was looked up, and was compiled for it or not.
    pub(super) fn looked_up(&self, was_compiled: bool) {
        let result = if was_compiled { "miss" } else { "hit" };
        self.lookups.get_or_create(&Outcome { result }).inc();
    }

    /// An image was asked for. What else may be wrong with it is no verdict.
    pub(super) fn verdict<T>(&self, found: &Result<T, ImageError>) {
        let verdict = match found {
            Ok(_) => "accepted",
            Err(ImageError::SignatureInvalid(_)) => "refused",
            Err(_) => return,
        };
        self.verdicts.get_or_create(&Verdict { verdict }).inc();
    }
}

/// A compiler that is measured, for one look-up.
pub(super) struct MeasuredCompiler<'a> {
    compiler: &'a dyn Compiler,
    metrics: &'a ProviderMetrics,
    was_asked: AtomicBool,
}

impl<'a> MeasuredCompiler<'a> {
    pub(super) fn new(compiler: &'a dyn Compiler, metrics: &'a ProviderMetrics) -> Self {
        Self { compiler, metrics, was_asked: AtomicBool::new(false) }
    }

    /// It had to compile.
    pub(super) fn was_asked(&self) -> bool {
        self.was_asked.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Compiler for MeasuredCompiler<'_> {
    fn key(&self) -> String {
        self.compiler.key()
    }

    async fn compile(&self, module: &Path, out: &Path) -> Result<Facts, PrecompileError> {
        self.was_asked.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        let mut span = traces::child("compileModule", SpanKind::Internal);
        let compiled = self.compiler.compile(module, out).await;
        span.note(&compiled);
        let result = match &compiled {
            Ok(_) => "ok",
            Err(PrecompileError::Invalid(_)) => "invalid",
            Err(_) => "failed",
        };
        self.metrics.compilations.get_or_create(&Outcome { result }).observe(begun.elapsed().as_secs_f64());
        compiled
    }
}

/// What is counted of workers.
#[derive(Debug)]
struct Workers(Arc<WorkerTally>);

impl Collector for Workers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let (started, died) = self.0.processes();
        for (name, help, count) in [
            ("kubewasm_worker_starts", "Worker processes that were started", started),
            (
                "kubewasm_worker_deaths",
                "Worker processes that ended without having been told to, or did not come up",
                died,
            ),
        ] {
            let described = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(described)?;
        }
        let stats = self.0.instantiations();
        // Exact for the whole microseconds of the bounds.
        let bounds =
            INSTANTIATION_BUCKETS_MICROS.map(|micros| std::time::Duration::from_micros(micros).as_secs_f64());
        let bounds = bounds.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(stats.buckets).collect();
        let (name, help) = (
            "kubewasm_instantiate_duration_seconds",
            "Seconds from a compiled module to an instance that can run",
        );
        let count = stats.buckets.iter().sum();
        encoder.encode_descriptor(name, help, None, MetricType::Histogram)?.encode_histogram::<NoLabelSet>(
            stats.duration.as_secs_f64(),
            count,
            &buckets,
            None,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Compiles(bool);

    #[async_trait]
    impl Compiler for Compiles {
        fn key(&self) -> String {
            "key".to_owned()
        }

        async fn compile(&self, _: &Path, _: &Path) -> Result<Facts, PrecompileError> {
            if self.0 { Ok(Facts::default()) } else { Err(PrecompileError::Invalid("no module".to_owned())) }
        }
    }

    #[tokio::test]
    async fn what_the_provider_does_is_counted() {
        let metrics = ProviderMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry, Arc::default());
        for works in [true, false] {
            let compiles = Compiles(works);
            let compiler = MeasuredCompiler::new(&compiles, &metrics);
            assert!(!compiler.was_asked());
            assert_eq!(compiler.compile(Path::new("m"), Path::new("o")).await.is_ok(), works);
            assert!(compiler.was_asked());
        }
        metrics.looked_up(false);
        metrics.verdict(&Ok(()));
        metrics.verdict::<()>(&Err(ImageError::SignatureInvalid("unsigned".into())));
        metrics.verdict::<()>(&Err(ImageError::Pull("away".into())));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "kubewasm_compile_duration_seconds_count{result=\"ok\"} 1",
            "kubewasm_compile_duration_seconds_count{result=\"invalid\"} 1",
            "kubewasm_code_cache_lookups_total{result=\"hit\"} 1",
            "kubewasm_image_policy_verdicts_total{verdict=\"accepted\"} 1",
            "kubewasm_image_policy_verdicts_total{verdict=\"refused\"} 1",
            "kubewasm_worker_starts_total 0",
            "kubewasm_instantiate_duration_seconds_bucket{le=\"+Inf\"} 0",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
        }
    }
}
