"""Questions said within another sentence: "I need to know" + "how tall the {a} is", in English and Chinese.

Every opener goes with every clause of its kind, so that what a sentence begins with and what it asks are learned apart. Forms of
wordings.HELD_OUT are never made here. Knows nothing of pictures or tokens.
"""

from __future__ import annotations

# Openers, and the mark that ends the sentence; {if} is a word that begins the clause of a yes-or-no question.
OPENERS = {
    "en": (
        ("Do you know {if}", "?"),
        ("Can you tell me {if}", "?"),
        ("Could you tell me {if}", "?"),
        ("Would you tell me {if}", "?"),
        ("Can you say {if}", "?"),
        ("Can you see {if}", "?"),
        ("Could you find out {if}", "?"),
        ("Can you work out {if}", "?"),
        ("Any idea {if}", "?"),
        ("I want to know {if}", "."),
        ("I would like to know {if}", "."),
        ("I need to know {if}", "."),
        ("I wonder {if}", "."),
        ("Let me know {if}", "."),
        ("Find out {if}", "."),
        ("Look and say {if}", "."),
        ("Have a look and tell me {if}", "."),
        ("Tell me exactly {if}", "."),
        ("Tell us {if}", "."),
        ("Just tell me {if}", "."),
        ("Say {if}", "."),
        ("The question is {if}", "."),
        ("My question is {if}", "."),
        ("What I want to know is {if}", "."),
    ),
    "zh": (
        ("", "？"),
        ("你看", "？"),
        ("请问", "？"),
        ("我问你", "？"),
        ("你能不能告诉我", "？"),
        ("能告诉我", "吗？"),
        ("你可以告诉我", "吗？"),
        ("知道", "吗？"),
        ("告诉我", "。"),
        ("请告诉我", "。"),
        ("我想知道", "。"),
        ("我要知道", "。"),
        ("我想问", "。"),
        ("说一下", "。"),
        ("请说", "。"),
        ("看一看", "。"),
        ("帮我看看", "。"),
        ("帮我看一下", "。"),
        ("你来说说", "。"),
        ("请你看看", "。"),
    ),
}
WHETHER = {"en": ("if", "whether"), "zh": ("",)}
YES_OR_NO = "exists", "compare", "fits"
# Slots as in wordings.FORMS.
CLAUSES = {
    "en": {
        "list": (
            "what is on the {table}",
            "which {object}s are on the {table}",
            "what {object}s there are",
            "what can be seen in the {image}",
            "what is in the {image}",
            "what we have got on the {table}",
            "which {object}s you can see",
            "what is lying there",
        ),
        "where": (
            "where the {a} is",
            "where the {a} stands",
            "where on the {table} the {a} is",
            "where you see the {a}",
            "where I can find the {a}",
            "in which place the {a} is",
            "the position of the {a}",
            "where the {a} is now",
        ),
        "count": (
            "how many {a}s there are",
            "how many {a}s you see",
            "how many {a}s are on the {table}",
            "how many {a}s can be seen",
            "how many {a}s we have",
            "the number of {a}s on the {table}",
            "how many {a}s stand there",
        ),
        "exists": (
            "there is a {a}",
            "you see a {a}",
            "a {a} is there",
            "a {a} can be seen",
            "we have got a {a}",
            "there is any {a} on the {table}",
            "a {a} is somewhere in the {image}",
        ),
        "compare": (
            "the {a} is {rel} the {b}",
            "the {a} stands {rel} the {b}",
            "you see the {a} {rel} the {b}",
            "the {a} is placed {rel} the {b}",
            "the {a} is standing {rel} the {b}",
            "I find the {a} {rel} the {b}",
            "the {a} is really {rel} the {b}",
        ),
        "nearest": (
            "which {object} is nearest to the camera",
            "what is closest to the camera",
            "which {object} is the closest",
            "the {object} nearest to the camera",
            "which one stands closest to the camera",
            "which of the {object}s is nearest to you",
        ),
        "nearest_to": (
            "which {object} is nearest to the {b}",
            "what is closest to the {b}",
            "the {object} nearest to the {b}",
            "which one stands closest to the {b}",
            "which of the {object}s is nearest to the {b}",
            "what {object} is the nearest to the {b}",
        ),
        "what_at": (
            "what is {rel} the {b}",
            "which {object} is {rel} the {b}",
            "what there is {rel} the {b}",
            "what you see {rel} the {b}",
            "what stands {rel} the {b}",
            "what {object}s are {rel} the {b}",
            "which {object}s stand {rel} the {b}",
        ),
        "distance": (
            "how far the {a} is from the {b}",
            "how far apart the {a} and the {b} are",
            "the distance from the {a} to the {b}",
            "the distance between the {a} and the {b}",
            "how close the {a} is to the {b}",
            "how many centimetres are between the {a} and the {b}",
            "how far it is from the {a} to the {b}",
        ),
        "distance_to": (
            "how far away the {a} is",
            "how far the {a} is from the camera",
            "how far the {a} is from you",
            "the distance to the {a}",
            "how many metres it is to the {a}",
            "how close the {a} is",
            "at what distance the {a} is",
        ),
        "colour": (
            "what colour the {a} is",
            "what color the {a} is",
            "which colour the {a} is",
            "what colour the {a} has",
            "the colour of the {a}",
            "in what colour the {a} is",
        ),
        "size": (
            "how {adj} the {a} is",
            "how {adj} that {a} is",
            "how {adj} the {a} is in metres",
            "how many centimetres {adj} the {a} is",
            "exactly how {adj} the {a} is",
            "how {adj} the {a} on the {table} is",
        ),
        "fits": (
            "the {a} fits in the {b}",
            "the {a} will fit into the {b}",
            "the {a} can go into the {b}",
            "there is room for the {a} in the {b}",
            "the {b} is big enough for the {a}",
            "the {a} is small enough for the {b}",
            "I can put the {a} into the {b}",
            "the {b} has room for the {a}",
        ),
        "reading": (
            "what the {gauge} reads",
            "what the {gauge} shows",
            "what the {gauge} says",
            "the reading of the {gauge}",
            "what value the {gauge} shows",
            "how much the {gauge} shows",
            "where the {gauge} stands",
        ),
        "text": (
            "what the {sign} says",
            "what is written on the {sign}",
            "the text on the {sign}",
            "what word is on the {sign}",
            "what it says on the {sign}",
            "what you read on the {sign}",
        ),
    },
    "zh": {
        "list": ("{table}上有什么", "{image}有什么", "有哪些{object}", "{table}上有哪些{object}", "这里有什么", "{table}上都放着什么"),
        "where": ("{a}在哪里", "{a}在哪儿", "{a}在什么地方", "{a}在什么位置", "{a}放在哪里", "{a}在{table}的哪里", "哪里有{a}"),
        "count": ("有几个{a}", "有多少个{a}", "{table}上有几个{a}", "{a}有几个", "一共有多少个{a}", "这里有几个{a}", "{a}的数量是多少"),
        "exists": ("有没有{a}", "{table}上有没有{a}", "是不是有{a}", "{a}在不在", "这里有没有{a}", "{table}上是不是有{a}"),
        "compare": ("{a}是不是在{b}的{rel}", "{a}是不是在{b}{rel}", "{a}在不在{b}的{rel}", "{a}是否在{b}{rel}", "{b}{rel}的是不是{a}", "{b}的{rel}是不是{a}"),
        "nearest": ("哪个{object}离相机最近", "什么离相机最近", "离镜头最近的是什么", "离相机最近的{object}是什么", "最近的{object}是哪个", "哪个{object}离你最近"),
        "nearest_to": ("哪个{object}离{b}最近", "什么离{b}最近", "离{b}最近的是什么", "离{b}最近的{object}是哪个", "和{b}最近的{object}是什么"),
        "what_at": ("{b}{rel}有什么", "{b}的{rel}有什么", "什么在{b}{rel}", "{b}{rel}有哪些{object}", "在{b}{rel}的是什么", "哪个{object}在{b}的{rel}", "{b}{rel}放着什么"),
        "distance": ("{a}离{b}有多远", "{a}到{b}有多远", "{a}和{b}之间的距离是多少", "{a}和{b}相距多远", "{a}距离{b}多少米", "从{a}到{b}有多远"),
        "distance_to": ("{a}有多远", "{a}离相机有多远", "{a}离我们多远", "到{a}的距离是多少", "{a}的距离是多少", "{a}到相机有多少米"),
        "colour": ("{a}是什么颜色", "{a}是什么颜色的", "{a}的颜色是什么", "{a}是哪种颜色", "{a}有什么颜色"),
        "size": ("{a}有多{adj}", "{a}多{adj}", "那个{a}有多{adj}", "{a}有多少厘米{adj}", "{table}上的{a}有多{adj}"),
        "fits": ("{a}能不能放进{b}", "{b}能不能放下{a}", "{a}放不放得进{b}", "{b}里有没有地方放{a}", "{b}够不够大放{a}", "{a}能不能放到{b}里"),
        "reading": ("{gauge}的读数是多少", "{gauge}显示多少", "{gauge}指着多少", "{gauge}的数值是多少", "{gauge}现在是多少", "{gauge}读多少"),
        "text": ("{sign}上写着什么", "{sign}上写了什么", "{sign}上的字是什么", "{sign}上是什么字", "{sign}上有什么字", "{sign}写的是什么"),
    },
}  # fmt: skip


def sentence(language: str, kind: str, choose) -> str:
    """One of them, with its slots. choose(options): picks one."""
    opener, end = choose(OPENERS[language])
    clause = choose(CLAUSES[language][kind])
    word = choose(WHETHER[language]) if kind in YES_OR_NO else ""
    if language == "zh":
        return opener + clause + end
    return f"{opener.replace('{if}', word).rstrip()} {clause}{end}"


def corpus() -> list[str]:
    """What they are made of, for the tokenizer."""
    openers = [text.replace("{if}", "") for of in OPENERS.values() for text, _ in of]
    return [*openers, *WHETHER["en"], *(text for of in CLAUSES.values() for texts in of.values() for text in texts)]
