"""The same two preferences in every spelling that is recognised, and what they must become."""

Q1, GOOD1, BAD1 = "What colour is the sky?", "It is blue.", "It is green."
Q2, GOOD2, BAD2 = "And the grass?\nIn one word.", "Green — mostly.", "Blue!"
TRIPLES = ((Q1, GOOD1, BAD1), (Q2, GOOD2, BAD2))
SYSTEM = "Answer briefly."


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


CONVERSATIONAL = [
    {"prompt": [user(q)], "chosen": [assistant(good)], "rejected": [assistant(bad)]} for q, good, bad in TRIPLES
]
PLAIN = [{"prompt": q, "chosen": " " + good, "rejected": " " + bad} for q, good, bad in TRIPLES]
UNPAIRED = [
    {"prompt": [user(q)], "completion": [assistant(answer)], "label": label}
    for q, good, bad in TRIPLES
    for answer, label in ((good, True), (bad, False))
]

# name: (format recognised, rows)
PAIRED_SPELLINGS = {
    "compared, as in a chatbot arena": (
        "compared",
        [
            {
                "conversation_a": [user(Q1), assistant(BAD1)],
                "conversation_b": [user(Q1), assistant(GOOD1)],
                "winner": "model_b",
            },
            {
                "conversation_a": [user(Q2), assistant(GOOD2)],
                "conversation_b": [user(Q2), assistant(BAD2)],
                "winner": "model_a",
            },
        ],
    ),
    "compared, with scores": (
        "compared",
        [
            {"question": Q1, "answer_1": BAD1, "answer_2": GOOD1, "score_1": -0.5, "score_2": 2},
            {"question": Q2, "answer_1": GOOD2, "answer_2": BAD2, "score_1": 9, "score_2": 2},
        ],
    ),
    "openai": (
        "openai",
        [
            {
                "input": {"messages": [user(q)], "parallel_tool_calls": True},
                "preferred_output": [assistant(g)],
                "non_preferred_output": [assistant(b)],
            }
            for q, g, b in TRIPLES
        ],
    ),
    "swift": ("swift", [{"messages": [user(q), assistant(g)], "rejected_response": b} for q, g, b in TRIPLES]),
    "swift, whole conversations": (
        "swift",
        [{"messages": [user(q), assistant(g)], "rejected_messages": [user(q), assistant(b)]} for q, g, b in TRIPLES],
    ),
    "swift, query and response": (
        "swift",
        [{"query": q, "response": g, "history": [], "rejected_response": b} for q, g, b in TRIPLES],
    ),
    "named pair, as in LLaMA-Factory v1": (
        "named_pair",
        [
            {
                f"{side}_messages": [user(q) | {"loss_weight": 0.0}, assistant(text) | {"loss_weight": 1.0}]
                for side, text in (("chosen", g), ("rejected", b))
            }
            for q, g, b in TRIPLES
        ],
    ),
    "named pair, parts of LLaMA-Factory v1": (
        "named_pair",
        [
            {
                f"{side}_messages": [
                    {"role": role, "content": [{"type": "text", "value": words}], "loss_weight": 0.0}
                    for role, words in (("user", q), ("assistant", text))
                ]
                for side, text in (("chosen", g), ("rejected", b))
            }
            for q, g, b in TRIPLES
        ],
    ),
    "named pair, as by Argilla": (
        "named_pair",
        [
            {"instruction": q, "chosen_response": g, "rejected_response": b, "chosen_avg_rating": 4.5}
            for q, g, b in TRIPLES
        ],
    ),
    "named pair, in camel case": (
        "named_pair",
        [{"question": q, "chosenResponse": g, "rejectedResponse": b} for q, g, b in TRIPLES],
    ),
    "compared, as in SHP": (
        "compared",
        [
            {
                "post_id": "x7",
                "history": q,
                "human_ref_A": b,
                "human_ref_B": g,
                "score_A": 3,
                "score_B": 9,
                "labels": 0,
            }
            for q, g, b in TRIPLES
        ],
    ),
    "compared, as in HelpSteer3": (
        "compared",
        [
            {"domain": "general", "context": [user(Q1)], "response1": GOOD1, "response2": BAD1}
            | {"overall_preference": -1, "individual_preference": [{"score": -1, "reasoning": "better"}]},
            {"domain": "general", "context": [user(Q2)], "response1": BAD2, "response2": GOOD2}
            | {"overall_preference": 3, "individual_preference": [{"score": 2, "reasoning": "worse"}]},
        ],
    ),
    "ranked, as in Nectar": (
        "ranked",
        [
            {
                "prompt": f"\n\nHuman: {q}\n\nAssistant: ",
                "answers": [
                    {"answer": b, "model": "m", "rank": 3.0},
                    {"answer": g, "model": "m", "rank": 1.0},
                    {"answer": "Who knows?", "model": "m", "rank": 2.0},
                ],
                "good_natured": True,
            }
            for q, g, b in TRIPLES
        ],
    ),
    "ranked, as in UltraFeedback": (
        "ranked",
        [
            {
                "source": "s",
                "instruction": q,
                "models": ["m", "n"],
                "completions": [
                    {"model": "m", "response": b, "fine-grained_score": 1.5, "overall_score": 10.0},
                    {"model": "n", "response": g, "fine-grained_score": 4.25, "overall_score": 9.0},
                ],
            }
            for q, g, b in TRIPLES
        ],
    ),
    "ranked, aspects": (
        "ranked",
        [
            {
                "instruction": q,
                "completions": [
                    {"response": g, "annotations": {"honesty": {"Rating": "4"}, "helpfulness": {"Rating": "5"}}},
                    {"response": b, "annotations": {"honesty": {"Rating": "5"}, "helpfulness": {"Rating": "1"}}},
                ],
            }
            for q, g, b in TRIPLES
        ],
    ),
    "ranked, scores in a list": (
        "ranked",
        [{"question": q, "responses": [b, "Who knows?", g], "scores": [-1.5, 0.25, 0.5]} for q, g, b in TRIPLES],
    ),
    "ranked, ranks in a list": (
        "ranked",
        [{"question": q, "generations": [b, g], "ranks": [2, 1]} for q, g, b in TRIPLES],
    ),
    "ranked, a choice": (
        "ranked",
        [{"question": q, "summaries": [{"text": b}, {"text": g}], "choice": 1} for q, g, b in TRIPLES],
    ),
    "ranked, columns": (
        "ranked",
        [
            {"question": q, "answer_1": "Who knows?", "answer_2": g, "answer_3": b}
            | {"score_1": 3, "score_2": 7, "score_3": 0}
            for q, g, b in TRIPLES
        ],
    ),
    "sharegpt, from and content": (
        "sharegpt",
        [
            {
                "conversations": [{"from": "human", "content": q}],
                "chosen": {"from": "gpt", "content": g},
                "rejected": {"from": "gpt", "content": b},
            }
            for q, g, b in TRIPLES
        ],
    ),
    "trl, speaker and text": (
        "trl",
        [
            {
                side: [{"speaker": "Human", "text": q}, {"speaker": "AI", "text": text}]
                for side, text in (("chosen", g), ("rejected", b))
            }
            for q, g, b in TRIPLES
        ],
    ),
    "trl, capitals": (
        "trl",
        [{"Prompt": [user(q)], "CHOSEN": [assistant(g)], "Rejected ": [assistant(b)]} for q, g, b in TRIPLES],
    ),
    "trl, exchanges": (
        "trl",
        [{"chosen": [{"input": q, "output": g}], "rejected": [{"input": q, "output": b}]} for q, g, b in TRIPLES],
    ),
    "orca, history": (
        "orca",
        [{"prompt": q, "history": [], "chosen": g, "rejected": b} for q, g, b in TRIPLES],
    ),
    "trl": ("trl", CONVERSATIONAL),
    "trl, implicit prompt": (
        "trl",
        [{"chosen": [user(q), assistant(g)], "rejected": [user(q), assistant(b)]} for q, g, b in TRIPLES],
    ),
    "trl, prompt repeated in the answers": (
        "trl",
        [
            {"prompt": [user(q)], "chosen": [user(q), assistant(g)], "rejected": [user(q), assistant(b)]}
            for q, g, b in TRIPLES
        ],
    ),
    "trl, answers as text": (
        "trl",
        [{"prompt": [user(q)], "chosen": g, "rejected": b} for q, g, b in TRIPLES],
    ),
    "trl, other keys in messages": (
        "trl",
        [
            {
                "prompt": [{**user(q), "id": 3}],
                "chosen": [{**assistant(g), "score": 0.9}],
                "rejected": [{**assistant(b), "score": None}],
            }
            for q, g, b in TRIPLES
        ],
    ),
    "hh": (
        "hh",
        [
            {
                "chosen": f"\n\nHuman: {q}\n\nAssistant: {g}",
                "rejected": f"\n\nHuman: {q}\n\nAssistant: {b}",
            }
            for q, g, b in TRIPLES
        ],
    ),
    "hh, prompt apart": (
        "hh",
        [{"prompt": f"\n\nHuman: {q}\n\nAssistant:", "chosen": f" {g}", "rejected": f" {b}"} for q, g, b in TRIPLES],
    ),
    "ultrafeedback": (
        "ultrafeedback",
        [
            {
                "prompt": q,
                "prompt_id": "ab12",
                "messages": [user(q), assistant(g)],
                "chosen": [user(q), assistant(g)],
                "rejected": [user(q), assistant(b)],
                "score_chosen": 8.0,
            }
            for q, g, b in TRIPLES
        ],
    ),
    "ultrafeedback, answers alone": (
        "ultrafeedback",
        [{"prompt": q, "chosen": [assistant(g)], "rejected": [assistant(b)]} for q, g, b in TRIPLES],
    ),
    "sharegpt": (
        "sharegpt",
        [{"conversations": [human(q)], "chosen": gpt(g), "rejected": gpt(b)} for q, g, b in TRIPLES],
    ),
    "sharegpt, messages": (
        "sharegpt",
        [{"messages": [user(q)], "chosen": assistant(g), "rejected": assistant(b)} for q, g, b in TRIPLES],
    ),
    "sharegpt, answer kept in the conversation": (
        "sharegpt",
        [{"conversations": [human(q), gpt(g)], "chosen": gpt(g), "rejected": gpt(b)} for q, g, b in TRIPLES],
    ),
    "sharegpt, whole conversations": (
        "trl",
        [{"chosen": [human(q), gpt(g)], "rejected": [human(q), gpt(b)]} for q, g, b in TRIPLES],
    ),
    "alpaca": (
        "alpaca",
        [{"instruction": q, "input": "", "chosen": g, "rejected": b} for q, g, b in TRIPLES],
    ),
    "alpaca, outputs": ("alpaca", [{"instruction": q, "output": [g, b]} for q, g, b in TRIPLES]),
    "orca": ("orca", [{"question": q, "chosen": g, "rejected": b, "id": "x"} for q, g, b in TRIPLES]),
    "orca, answers as messages": (
        "orca",
        [
            {"question": q, "chosen": [user(q), assistant(g)], "rejected": [user(q), assistant(b)]}
            for q, g, b in TRIPLES
        ],
    ),
}


def _singles(make):
    return [make(q, answer, label) for q, g, b in TRIPLES for answer, label in ((g, True), (b, False))]


UNPAIRED_SPELLINGS = {
    "trl": ("trl", UNPAIRED),
    "trl, answers as text": (
        "trl",
        _singles(lambda q, a, label: {"prompt": [user(q)], "completion": a, "label": label}),
    ),
    "trl, whole conversation": (
        "trl",
        _singles(lambda q, a, label: {"completion": [user(q), assistant(a)], "label": label}),
    ),
    "hh": (
        "hh",
        _singles(lambda q, a, label: {"completion": f"\n\nHuman: {q}\n\nAssistant: {a}", "label": label}),
    ),
    "sharegpt": (
        "sharegpt",
        _singles(lambda q, a, label: {"conversations": [human(q), gpt(a)], "kto_tag": label}),
    ),
    "sharegpt, messages": (
        "sharegpt",
        _singles(lambda q, a, label: {"messages": [user(q), assistant(a)], "label": label}),
    ),
    "alpaca": (
        "alpaca",
        _singles(lambda q, a, label: {"instruction": q, "input": None, "output": a, "kto_tag": label}),
    ),
    "orca": ("orca", _singles(lambda q, a, label: {"question": q, "completion": a, "label": label})),
    "sharegpt, from and content": (
        "sharegpt",
        _singles(
            lambda q, a, label: {
                "conversation": [{"from": "human", "content": q}, {"from": "gpt", "content": a}],
                "Label": label,
            }
        ),
    ),
}
