"""The demonstration: four parties' edits on a real small model, merged in five ways."""

from __future__ import annotations

from pathlib import Path

from collabedit.experiments.single_round import SingleRoundSettings, single_round
from collabedit.files import read_json
from collabedit.messages import Delta
from collabedit.models import LanguageModel, load_model
from collabedit.progress import plan
from collabedit.progress.plans import study_stages
from collabedit.reporting.results import SingleRoundResult
from collabedit.reporting.table import Column, Table, console, section
from collabedit.reporting.tables import methods_table

__all__ = ["run_demo"]

_SETTINGS = SingleRoundSettings(model="smollm2-135m", parties=4, edits_per_party=8)
_SHOWN_PROMPTS = 3


def run_demo(results: Path, seed: int) -> None:
    """Run the demonstration and print what a newcomer wants to see.

    Args:
        results: folder of all runs.
        seed: of the partition and all sampling.
    """
    out = console()
    out.print(
        "Four parties hold eight facts each that they want to correct in one model, "
        f"{_SETTINGS.model}.\nNo party sends its facts to another. "
        "Their edits are merged in five ways:\n"
    )
    with plan(study_stages(len(_SETTINGS.merge))):
        run = single_round(_SETTINGS.model_copy(update={"seed": seed}), results)
    result = SingleRoundResult.load(run.folder)
    out.print(methods_table(result, "32 edits of 4 parties, merged").rich())
    out.print(
        "ES, PS: how often the new object is likelier than the old one, asked as edited and in\n"
        "other words. NS: how often the true object stays likelier for neighbouring facts.\n"
        "Score: their harmonic mean. acc: how often the expected object is the very likeliest.\n"
        "distance: of the weight update from that of GLOBAL, one party holding all 32 edits;\n"
        "CollabEdit computes the same update, averaging does not.\n"
    )
    out.print(_answers(run.folder).rich())
    out.print(
        f"Results: {run.folder}/ (summary.json, params.json, case_<id>.json)\n\n"
        "What to try next:\n"
        "  collabedit run single-round --parties 10 --edits-per-party 10 --merge all\n"
        "  collabedit edit --requests my_facts.jsonl -o edited-model\n"
        "  collabedit round new -o round.json        (edit together with others, by files)\n"
        "  collabedit models list",
        highlight=False,
        markup=False,
    )


def _answers(folder: Path) -> Table:
    """Three edited prompts and how the model goes on before and after."""
    cases = sorted(folder.glob("case_*.json"), key=lambda path: int(path.stem[5:]))
    rewrites = [read_json(path)["requested_rewrite"] for path in _spread(cases, _SHOWN_PROMPTS)]
    prompts = [rewrite["prompt"].replace("{}", rewrite["subject"]) for rewrite in rewrites]
    model = load_model(_SETTINGS.model)
    before = [continuation(model, prompt) for prompt in prompts]
    delta = Delta.load(folder / "stages" / "deltas" / "CollabEdit.safetensors")
    with model.edited(delta.changes):
        after = [continuation(model, prompt) for prompt in prompts]
    targets = [rewrite["target_new"]["str"] for rewrite in rewrites]
    names = ("prompt", "edit", "before", "after CollabEdit")
    columns = [Column.words(name) for name in names]
    found = zip(prompts, targets, before, after, strict=True)
    rows = [dict(zip(names, texts, strict=True)) for texts in found]
    return Table("The model goes on", columns, [section(columns, rows)])


def _spread(items: list[Path], count: int) -> list[Path]:
    return items[:: max(1, len(items) // count)][:count]


def continuation(model: LanguageModel, prompt: str, tokens: int = 10) -> str:
    """What a model says after a prompt, greedily."""
    encoded = model.tokenizer(prompt, return_tensors="pt").to(model.device)
    output = model.hf.generate(
        input_ids=encoded.input_ids,
        attention_mask=encoded.attention_mask,
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=model.tokenizer.pad_token_id,
    )
    text = model.tokenizer.decode(output[0, encoded.input_ids.shape[1] :], skip_special_tokens=True)
    return " ".join(text.split())
