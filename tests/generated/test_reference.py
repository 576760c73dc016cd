"""The reference pages say of every field, reason and exit code what the contract says."""

from finetune_api.base import NotYet
from finetune_api.conditions import MEANINGS, Reason, retry_of
from finetune_api.profile import FineTuneProfileSpec
from finetune_api.run import ExitCode
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus
from finetune_api.structural import Schema, model_schema
from finetune_operator.generate import reference
from finetune_operator.generate.fields import Field, fields

SPEC = {field.path: field for field in fields(FineTuneJobSpec, model_schema(FineTuneJobSpec))}


def leaves(schema: Schema, prefix: str = "") -> set[str]:
    """The paths of a structural schema, with [] for the items of lists."""
    found = set()
    for name, below in schema.get("properties", {}).items():
        found |= {f"{prefix}{name}"}
        inner, mark = (below["items"], "[]") if below.get("type") == "array" else (below, "")
        found |= leaves(inner, f"{prefix}{name}{mark}.")
    return found


def test_every_field_of_the_crd_is_in_the_reference_once_or_points_to_where_it_is():
    for model in (FineTuneJobSpec, FineTuneJobStatus, FineTuneProfileSpec):
        schema = model_schema(model)
        listed = {field.path for field in fields(model, schema)}
        pointing = {f"{field.path}[]." for field in fields(model, schema) if " as `" in field.type}
        missing = {path for path in leaves(schema) - listed if not path.startswith(tuple(pointing) or ("-",))}
        assert not missing
        assert listed <= leaves(schema)


def test_a_row_says_type_default_limits_and_description():
    assert SPEC["training.epochs"] == Field(
        path="training.epochs",
        type="number",
        default="",
        limits="> 0, ≤ 1000",
        support="yes",
        description="Passes over the training set; 0.5 is half of it. Give this or maxSteps. Absent, both: 3.",
    )
    assert SPEC["output.uri"].default == "required"
    assert SPEC["evaluation.baseline"].default == "`true`"
    assert SPEC["resources.memory"].type == "quantity"
    assert SPEC["data.validation"].type == "list of section as `data.train[]`"


def test_what_is_refused_for_now_is_said_of_the_field_of_its_values_and_of_all_below():
    refused = {path for path, field in SPEC.items() if field.support != "yes"}
    marked = {
        path
        for name, info in FineTuneJobSpec.model_fields.items()
        for path in [info.alias or name]
        if any(isinstance(marker, NotYet) for marker in info.metadata)
    }
    assert marked < refused
    assert SPEC["training.precision"].support == "not supported yet: `fp16`"
    assert SPEC["data.prepare.minTokens"].support == "not supported yet"
    page = reference.finetunejob()
    inner = next(line for line in page.splitlines() if line.startswith("| `prepare.minTokens`"))
    assert "not supported yet" in inner


def test_the_page_names_each_rule_that_spans_fields():
    page = reference.finetunejob()
    assert "- give training.epochs or training.maxSteps, not both" in page.splitlines()


def test_every_reason_has_a_row_with_fault_and_next_step():
    page = reference.reasons()
    for reason in Reason:
        assert f"| `{reason}` | {MEANINGS[reason].fault} |" in page
        assert MEANINGS[reason].next_step in page


def test_every_exit_code_has_a_row_and_says_whether_another_attempt_follows():
    rows = {line.split(" | ")[0].strip("| "): line for line in reference.exit_codes().splitlines()}
    for code in ExitCode:
        assert code.reason in rows[str(int(code))]
        assert not code or f" {retry_of(code.reason).replace('never', 'no')} " in rows[str(int(code))]
    assert " no " in rows["11"]
    assert " counted " in rows["20"]
