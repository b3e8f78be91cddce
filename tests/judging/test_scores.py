"""A judge by scores: the higher wins; scores of functions, classifiers and reward adapters against plain computations."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.trainers.rollout.test_reward_position import base_with, train_nothing_but_save
from trl_ext.judging.judge import Question, Verdict
from trl_ext.judging.scorers import adapter_scorer, classifier_scorer, function_scorer
from trl_ext.judging.scores import CHUNK, ScoreJudge
from trl_ext.support.errors import UserError

FIRST, SECOND, TIE, UNCLEAR = Verdict

CHAT = [{"role": "user", "content": "Write about the room."}]
ANSWERS = ["I loved the room.", "I hated the bed, and the staff was awful.", "Great."]
QUESTIONS = [Question(CHAT, ANSWERS[0], ANSWERS[1]), Question(CHAT, ANSWERS[2], ANSWERS[1])]


def lengths(prompts, answers):
    return [float(len(answer)) for answer in answers]


def test_the_higher_score_wins_and_scores_within_the_tolerance_tie():
    questions = [
        Question("p", "aaa", "b"),
        Question("p", "b", "aaa"),
        Question("p", "a", "b"),
        Question("p", "aa", "b"),
    ]
    judge = ScoreJudge("long", lengths)
    assert not judge.has_position
    assert list(judge.verdicts(questions)) == [FIRST, SECOND, TIE, FIRST]
    assert list(ScoreJudge("long", lengths, tolerance=1).verdicts(questions)) == [FIRST, SECOND, TIE, TIE]
    assert judge.score("p", "aaa") == 3


def test_an_answer_without_a_score_makes_the_verdict_unclear():
    judge = ScoreJudge("some", lambda prompts, answers: [None if answer == "x" else 1.0 for answer in answers])
    assert list(judge.verdicts([Question("p", "x", "a"), Question("p", "a", "x"), Question("p", "a", "b")])) == [
        UNCLEAR,
        UNCLEAR,
        TIE,
    ]


def test_no_answer_is_scored_twice_and_verdicts_come_before_all_are_scored():
    scored = []

    def score(prompts, answers):
        scored.extend(zip(prompts, answers, strict=True))
        return lengths(prompts, answers)

    judge = ScoreJudge("long", score)
    questions = [Question(f"p{i}", "base", f"tuned {i}") for i in range(CHUNK + 5)]
    next(iter(judge.verdicts(questions)))
    assert len(scored) == 2 * CHUNK
    assert list(judge.verdicts(questions)) == [SECOND] * (CHUNK + 5)
    list(judge.verdicts([question.swapped() for question in questions]))
    assert len(scored) == len(set(scored)) == 2 * (CHUNK + 5)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_with("plain", tmp_path_factory.mktemp("judge") / "base")


def test_a_reward_function_gets_what_trl_passes(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    seen = []

    def reward(prompts, completions, completion_ids, trainer_state, log_extra, log_metric):
        log_metric("mine", 1.0)
        seen.extend(zip(prompts, completions, strict=True))
        return [len(ids) for ids in completion_ids]

    async def later(completions, **kwargs):
        return [float(len(each)) for each in completions]

    expected = [len(tokenizer(answer, add_special_tokens=False).input_ids) for answer in ANSWERS]
    assert list(function_scorer(reward, tokenizer)([CHAT] * 3, ANSWERS)) == expected
    assert seen[0] == (CHAT, [{"role": "assistant", "content": ANSWERS[0]}])
    function_scorer(reward, tokenizer)(["text"], ["answer"])
    assert seen[-1] == ("text", "answer")
    assert list(function_scorer(later, tokenizer)(["text"], ["answer"])) == [6]


def test_a_function_that_fails_is_reported_in_a_sentence(base):
    def divides(completions, **kwargs):
        return [1 / 0 for _ in completions]

    with pytest.raises(UserError, match=r"The reward function divides failed on 1 completion with ZeroDivisionError"):
        function_scorer(divides, AutoTokenizer.from_pretrained(base))(["p"], ["a"])


@pytest.mark.parametrize("prompt", [CHAT, "Write about the room. "])
@torch.no_grad()
def test_a_classifier_scores_as_alone_and_unpadded(base, prompt):
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32).eval()
    expected = []
    for answer in ANSWERS:
        if isinstance(prompt, str):
            ids = tokenizer(prompt + answer, add_special_tokens=False).input_ids
        else:
            turns = [*prompt, {"role": "assistant", "content": answer}]
            ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        hidden = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        expected.append((model.score.weight @ hidden).item())
    for batch_tokens in (1, 10_000):
        scores = classifier_scorer(model, tokenizer, "mine", batch_tokens)([prompt] * 3, ANSWERS)
        assert scores == pytest.approx(expected, rel=1e-4, abs=1e-5)


@torch.no_grad()
def test_a_classifier_with_broken_weights_is_refused(base):
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    model.score.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="The reward model mine scored 3 of 3"):
        classifier_scorer(model, AutoTokenizer.from_pretrained(base), "mine")([CHAT] * 3, ANSWERS)


def test_a_reward_adapter_scores_on_the_policys_base_and_leaves_the_policy_as_it_is(base, tmp_path):
    classifier = train_nothing_but_save(base, tmp_path / "reward")
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(1)
    policy = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    ).eval()
    ids = torch.tensor([tokenizer("I loved the room.").input_ids])
    with torch.no_grad():
        before = policy(input_ids=ids).logits
    judge = ScoreJudge("reward", adapter_scorer(str(tmp_path / "reward"), policy, tokenizer, batch_size=2))
    verdicts = list(judge.verdicts(QUESTIONS))
    expected = []
    for answer in ANSWERS:
        turns = [*CHAT, {"role": "assistant", "content": answer}]
        rendered = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        with torch.no_grad():
            expected.append(classifier(input_ids=torch.tensor([rendered])).logits.item())
    assert [judge.score(CHAT, answer) for answer in ANSWERS] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert verdicts == [FIRST if expected[i] > expected[1] else SECOND for i in (0, 2)]
    with torch.no_grad():
        assert torch.equal(policy(input_ids=ids).logits, before)


def test_a_folder_that_is_no_reward_adapter_and_a_model_without_adapter_are_refused(base, tmp_path):
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    with pytest.raises(UserError, match="needs a model with an adapter on the same base"):
        adapter_scorer(str(tmp_path), whole, tokenizer)
    policy = get_peft_model(whole, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with pytest.raises(UserError, match=r"holds no adapter_config\.json"):
        adapter_scorer(str(tmp_path), policy, tokenizer)
