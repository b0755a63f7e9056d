//! `kubewasm policy run`

use kubewasm_policy::evaluator::Call;

use super::evaluation::{Evaluation, EvaluationArgs};
use crate::module::{self, ModuleSession};

/// Arguments of `kubewasm policy run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    evaluation: EvaluationArgs,
}

pub(super) async fn run(session: &ModuleSession, args: RunArgs) -> anyhow::Result<()> {
    let evaluation = Evaluation::prepare(session, args.evaluation).await?;
    evaluation.check_settings().await?;
    let Evaluation { question, settings, evaluator, program, .. } = &evaluation;
    let ended = evaluator.call(program, Call::Validate, &question.document(settings)).await;
    evaluation.write_session()?;
    let response = serde_json::to_string(&question.response(&ended))?;
    module::print(|out| writeln!(out, "{response}"))
}
