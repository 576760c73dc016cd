"""``spec.model``: the model to start from."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model, Rule
from finetune_api.spec.fields import PLAIN, SecretName, Uri, optional, unique


class CombinedAdapter(Model):
    """One adapter among several."""

    uri: Annotated[Uri, Field(pattern=r"^job://[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
    """`job://name`: the FineTuneJob of this namespace that published it."""
    weight: Annotated[float, Field(ge=-100, le=100)] | None = None
    """What it counts. Negative: what it learned is taken away. Give it for all adapters or for none. Absent: all count
    the same, and 1 together."""


class Combine(Model):
    """Several adapters of one base, combined into one."""

    adapters: Annotated[tuple[CombinedAdapter, ...], Field(min_length=2, max_length=8)]
    """LoRA adapters of one and the same base."""
    method: Literal["linear", "cat", "svd", "ties", "dare_linear", "dare_ties"] = "linear"
    """How, in PEFT's words. `cat`: the weighted sum of the updates, exactly; the ranks add up. `svd`: the same, as near
    as the highest of the ranks allows. `linear`: the matrices are summed one by one, which is near the sum of the
    updates where the adapters are alike. `ties`: linear, of the largest values whose sign most agree on. `dare_linear`,
    `dare_ties`: the same of values drawn by training.seed, the others being zero. All but cat and svd need adapters of
    one rank."""
    density: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the values that ties, dare_linear and dare_ties keep. Absent: 0.5."""

    rules = (
        unique("adapters", "uri", "combine.adapters must not name a job twice: raise its weight instead"),
        Rule(
            "adapters",
            "self.adapters.all(a, has(a.weight)) || self.adapters.all(a, !has(a.weight))",
            "give a weight for all of combine.adapters or for none",
            lambda c: len({adapter.weight is None for adapter in c.adapters}) == 1,
        ),
        Rule(
            "density",
            "!has(self.density) || self.method in ['ties', 'dare_linear', 'dare_ties']",
            "combine.density is for the methods ties, dare_linear and dare_ties",
            lambda c: c.density is None or c.method in ("ties", "dare_linear", "dare_ties"),
        ),
    )


class ModelSource(Model):
    """The model to start from."""

    uri: Annotated[Uri, Field(pattern=r"^((hf|s3|pvc)://[^/].*|job://[a-z0-9]([a-z0-9.-]*[a-z0-9])?)$")] | None = None
    """Where it lies: `hf://org/name` (Hugging Face hub), `s3://bucket/prefix/` (a directory with config.json, tokenizer
    and safetensors), `job://name` (what another FineTuneJob of this namespace published: a model, or an adapter with
    all that it was built on, see method.from). Give this or combine."""
    combine: Combine | None = None
    """Adapters of several finished FineTuneJobs to start from as one: trained further, or with training.maxSteps 0
    measured and published as it is. Its metrics stand beside those of the base without any of them."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Branch, tag or commit of an `hf://` model. Absent: the default branch; the commit is recorded in the result."""
    credentials: SecretName | None = None
    """Secret whose key `token` is a Hugging Face token, for gated or private models; also where a `job://` is built on
    one."""

    rules = (
        Rule(
            "uri",
            "has(self.uri) != has(self.combine)",
            "give either model.uri or model.combine, one of the two",
            lambda m: (m.uri is None) != (m.combine is None),
        ),
        Rule(
            "uri",
            "!has(self.uri) || !self.uri.startsWith('pvc://')",
            "pvc:// models are not supported yet: copy the model to S3 and name it with s3://",
            lambda m: not starts(m, "pvc://"),
        ),
        Rule(
            "revision",
            "!has(self.revision) || (has(self.uri) && self.uri.startsWith('hf://'))",
            "revision is for hf:// models only",
            lambda m: m.revision is None or starts(m, "hf://"),
        ),
        Rule(
            "credentials",
            "!has(self.credentials) || !has(self.uri) || !self.uri.startsWith('s3://')",
            "credentials are for hf:// models only; S3 credentials go to spec.storage.credentials",
            lambda m: m.credentials is None or not starts(m, "s3://"),
        ),
        *map(optional, PLAIN),
    )


def starts(model: ModelSource, scheme: str) -> bool:
    """Whether the model is named by a URI of a scheme (``hf://``)."""
    return (model.uri or "").startswith(scheme)
