"""How people ask: sentence forms of each kind of question, in English and Chinese, with words for things and places.

A form is a sentence with {a}, {b} for names as a person says them, and {rel} for a relation. Those of `HELD_OUT` are never
trained on: model/evaluate.py asks with them alone. Knows nothing of pictures, truth or tokens.
"""

from __future__ import annotations

import re

import indirect
import numpy as np

# What people call things beside the name the model was taught: name -> others.
SYNONYMS = {
    "en": {
        "mug": ("cup", "coffee cup", "coffee mug", "teacup"),
        "box": ("carton", "package", "container"),
        "cube": ("block", "dice"),
        "ball": ("sphere",),
        "cylinder": ("can", "tin"),
        "bowl": ("dish",),
        "tray": ("platter",),
        "gauge": ("dial", "meter", "pressure gauge"),
        "sign": ("plate", "label"),
        "shelf": ("rack", "bookshelf"),
        "object": ("thing", "item"),
        "table": ("desk",),
        "image": ("picture", "photo", "view", "scene"),
    },
    "zh": {
        "杯子": ("水杯", "茶杯", "马克杯", "咖啡杯"),
        "盒子": ("箱子", "纸盒", "盒"),
        "立方体": ("方块", "积木"),
        "球": ("圆球", "小球"),
        "圆柱体": ("圆柱", "罐子"),
        "碗": ("小碗", "饭碗"),
        "托盘": ("盘子",),
        "仪表": ("压力表", "表盘", "表"),
        "标牌": ("牌子", "标志"),
        "架子": ("货架", "置物架"),
        "物体": ("东西", "物品"),
        "桌子": ("桌面", "台面"),
        "图中": ("画面中", "图片里", "照片里", "画面里"),
    },
}
# Relations between two things, as facts are asked, and as people say them between "the a is" and "the b" / after "b".
SAID_RELATIONS = {
    "en": {
        "left of": ("left of", "to the left of", "on the left side of", "on the left of"),
        "right of": ("right of", "to the right of", "on the right side of", "on the right of"),
        "in front of": ("in front of", "before"),
        "behind": ("behind", "at the back of"),
        "on": ("on", "on top of", "standing on"),
        "in": ("in", "inside", "inside of"),
        "next to": ("next to", "beside", "close to", "near"),
        "above": ("above", "over"),
        "below": ("below", "under", "underneath"),
    },
    "zh": {
        "left of": ("左边", "左侧", "左面"),
        "right of": ("右边", "右侧", "右面"),
        "in front of": ("前面", "前方"),
        "behind": ("后面", "后方"),
        "on": ("上面", "上"),
        "in": ("里面", "里", "里头"),
        "next to": ("旁边", "边上"),
        "above": ("上方",),
        "below": ("下面", "下方"),
    },
}
SIZES = {
    "en": {
        "height": ("tall", "high"),
        "width": ("wide",),
        "length": ("long",),
        "size": ("big", "large"),
    },
    "zh": {"height": ("高",), "width": ("宽",), "length": ("长",), "size": ("大",)},
}

# {object} {table} {image} are words of SYNONYMS; {adj} one of SIZES; {a}, {b} names with no article.
FORMS = {
    "en": {
        "list": (
            "What is on the {table}?",
            "What is there?",
            "What do you see?",
            "What can you see in the {image}?",
            "What {object}s are there?",
            "What is in the {image}?",
            "List the {object}s on the {table}.",
            "Which {object}s are on the {table}?",
            "Describe the {image}.",
            "Tell me what is on the {table}.",
            "What {object}s can you see?",
            "Show me what is there.",
            "Name all {object}s in the {image}.",
            "What have we got on the {table}?",
            "What is lying on the {table}?",
        ),
        "where": (
            "Where is the {a}?",
            "Where can I find the {a}?",
            "In which place is the {a}?",
            "Where do you see the {a}?",
            "Where on the {table} is the {a}?",
            "Can you find the {a}?",
            "Find the {a}.",
            "Locate the {a}.",
            "Show me the {a}.",
            "Tell me where the {a} is.",
            "I am looking for the {a}.",
            "I need the {a}, where is it?",
            "Do you know where the {a} is?",
            "Where did I put the {a}?",
            "What is the position of the {a}?",
        ),
        "count": (
            "How many {a}s are there?",
            "How many {a}s do you see?",
            "Count the {a}s.",
            "How many {a}s are on the {table}?",
            "What is the number of {a}s?",
            "How many {a}s can you see in the {image}?",
            "How many {a}s have we got?",
            "Tell me how many {a}s there are.",
            "Count all {a}s in the {image}.",
            "Can you count the {a}s?",
            "The number of {a}s?",
            "How many {a}s?",
            "I want to know how many {a}s there are.",
            "How many {a}s stand on the {table}?",
            "Give me the count of {a}s.",
        ),
        "exists": (
            "Is there a {a}?",
            "Is there a {a} on the {table}?",
            "Do you see a {a}?",
            "Can you see a {a}?",
            "Is a {a} there?",
            "Is there any {a} in the {image}?",
            "Do we have a {a}?",
            "Is a {a} in the {image}?",
            "Have we got a {a}?",
            "Can you tell me if there is a {a}?",
            "Is there a {a} somewhere?",
            "Does the {image} show a {a}?",
            "Any {a} here?",
            "I wonder if there is a {a}.",
            "Is a {a} on the {table}?",
        ),
        "compare": (
            "Is the {a} {rel} the {b}?",
            "Is the {a} standing {rel} the {b}?",
            "Do you see the {a} {rel} the {b}?",
            "Is it true that the {a} is {rel} the {b}?",
            "Can you tell me if the {a} is {rel} the {b}?",
            "Tell me if the {a} is {rel} the {b}.",
            "The {a} is {rel} the {b}, right?",
            "Does the {a} stand {rel} the {b}?",
            "Is the {a} really {rel} the {b}?",
            "Check if the {a} is {rel} the {b}.",
            "Would you say that the {a} is {rel} the {b}?",
            "I think the {a} is {rel} the {b}, is that so?",
            "Do I find the {a} {rel} the {b}?",
            "Is the {a} placed {rel} the {b}?",
            "Does it look like the {a} is {rel} the {b}?",
        ),
        "nearest": (
            "Which {object} is nearest to the camera?",
            "What is closest to the camera?",
            "Which {object} is the nearest one?",
            "Which {object} is closest to us?",
            "What is nearest to you?",
            "Tell me which {object} is nearest.",
            "Name the {object} nearest to the camera.",
            "Which {object} stands closest to the camera?",
            "What {object} is nearest to the camera?",
            "Which one is nearest to the camera?",
            "Can you tell me which {object} is closest?",
            "The nearest {object}?",
            "What {object} is the closest?",
            "Which of the {object}s is nearest to the camera?",
            "Find the {object} closest to the camera.",
        ),
        "nearest_to": (
            "Which {object} is nearest to the {b}?",
            "What is closest to the {b}?",
            "Which {object} is closest to the {b}?",
            "What {object} is nearest to the {b}?",
            "Tell me which {object} is nearest to the {b}.",
            "Name the {object} closest to the {b}.",
            "Which {object} stands nearest to the {b}?",
            "Which one is nearest to the {b}?",
            "Can you tell me what is closest to the {b}?",
            "Which of the {object}s is closest to the {b}?",
            "Find the {object} nearest to the {b}.",
            "What is the nearest {object} to the {b}?",
            "What do you see closest to the {b}?",
            "The {object} nearest to the {b}?",
            "What stands closest to the {b}?",
        ),
        "what_at": (
            "What is {rel} the {b}?",
            "What {object} is {rel} the {b}?",
            "Which {object} is {rel} the {b}?",
            "What do you see {rel} the {b}?",
            "What stands {rel} the {b}?",
            "Tell me what is {rel} the {b}.",
            "Is there something {rel} the {b}?",
            "What can you find {rel} the {b}?",
            "Is anything {rel} the {b}?",
            "Name the {object}s {rel} the {b}.",
            "List what is {rel} the {b}.",
            "Which {object}s do you see {rel} the {b}?",
            "What have we got {rel} the {b}?",
            "Do you know what is {rel} the {b}?",
            "What lies {rel} the {b}?",
        ),
        "distance": (
            "How far is the {a} from the {b}?",
            "What is the distance between the {a} and the {b}?",
            "How far apart are the {a} and the {b}?",
            "Measure the distance from the {a} to the {b}.",
            "How much space is between the {a} and the {b}?",
            "What is the distance from the {a} to the {b}?",
            "How far is it from the {a} to the {b}?",
            "Tell me how far the {a} is from the {b}.",
            "How many centimetres are between the {a} and the {b}?",
            "Give me the distance between the {a} and the {b}.",
            "How far away from the {b} is the {a}?",
            "How close is the {a} to the {b}?",
            "Can you measure how far the {a} is from the {b}?",
            "The distance of the {a} to the {b}?",
            "How wide is the gap between the {a} and the {b}?",
        ),
        "distance_to": (
            "How far away is the {a}?",
            "How far is the {a}?",
            "What is the distance to the {a}?",
            "How far is the {a} from the camera?",
            "How far is the {a} from you?",
            "Measure how far away the {a} is.",
            "Tell me the distance to the {a}.",
            "How many metres is it to the {a}?",
            "How far is it to the {a}?",
            "How close is the {a}?",
            "What is the distance between you and the {a}?",
            "Give me the distance of the {a}.",
            "How far from the camera is the {a}?",
            "How far do I have to reach for the {a}?",
            "At what distance is the {a}?",
        ),
        "colour": (
            "What colour is the {a}?",
            "What is the colour of the {a}?",
            "Which colour does the {a} have?",
            "Tell me the colour of the {a}.",
            "What color is the {a}?",
            "Is the {a} red or what colour is it?",
            "What colour does the {a} have?",
            "Which colour is the {a}?",
            "Can you tell me what colour the {a} is?",
            "The colour of the {a}?",
            "What is the color of the {a}?",
            "Name the colour of the {a}.",
            "In what colour is the {a}?",
            "I want to know the colour of the {a}.",
            "Do you see what colour the {a} has?",
        ),
        "size": (
            "How {adj} is the {a}?",
            "Tell me how {adj} the {a} is.",
            "Can you tell me how {adj} the {a} is?",
            "Measure how {adj} the {a} is.",
            "Do you know how {adj} the {a} is?",
            "How {adj} is that {a}?",
            "I want to know how {adj} the {a} is.",
            "How {adj} would you say the {a} is?",
            "How {adj} is the {a} on the {table}?",
            "How many centimetres {adj} is the {a}?",
            "How {adj} is the {a} in metres?",
            "Find out how {adj} the {a} is.",
            "How {adj} is the {a} exactly?",
            "And how {adj} is the {a}?",
            "Say how {adj} the {a} is.",
        ),
        "fits": (
            "Does the {a} fit in the {b}?",
            "Does the {a} fit into the {b}?",
            "Will the {a} fit in the {b}?",
            "Can the {a} go into the {b}?",
            "Is the {a} small enough for the {b}?",
            "Is there room for the {a} in the {b}?",
            "Would the {a} fit into the {b}?",
            "Can I put the {a} in the {b}?",
            "Is the {b} big enough for the {a}?",
            "Tell me if the {a} fits in the {b}.",
            "Do you think the {a} fits into the {b}?",
            "Check if the {a} fits into the {b}.",
            "Is the {a} too big for the {b}?",
            "Could the {a} fit in the {b}?",
            "Does the {b} have room for the {a}?",
        ),
        "reading": (
            "What does the {gauge} read?",
            "What does the {gauge} show?",
            "What is the reading of the {gauge}?",
            "Read the {gauge}.",
            "What is the value on the {gauge}?",
            "What value does the {gauge} show?",
            "Tell me what the {gauge} says.",
            "What number does the {gauge} show?",
            "How much does the {gauge} show?",
            "Can you read the {gauge}?",
            "Where does the {gauge} stand?",
            "What is on the {gauge}?",
            "Give me the reading of the {gauge}.",
            "Please read the {gauge} for me.",
            "What does the {gauge} say?",
        ),
        "text": (
            "What does the {sign} say?",
            "What is written on the {sign}?",
            "Read the {sign}.",
            "What is on the {sign}?",
            "What word is on the {sign}?",
            "Can you read the {sign}?",
            "Tell me what the {sign} says.",
            "What text is on the {sign}?",
            "What do you read on the {sign}?",
            "What does it say on the {sign}?",
            "Read the {sign} for me.",
            "What can I read on the {sign}?",
            "Give me the text of the {sign}.",
            "What stands on the {sign}?",
            "The text on the {sign}?",
        ),
    },
    "zh": {
        "list": (
            "{table}上有什么？",
            "{image}有什么？",
            "你看到了什么？",
            "有哪些{object}？",
            "{table}上有哪些{object}？",
            "{image}有哪些{object}？",
            "列出{table}上的{object}。",
            "描述一下{image}的{object}。",
            "都有什么？",
            "告诉我{table}上有什么。",
            "你能看到哪些{object}？",
            "{table}上放着什么？",
            "说说{image}有什么。",
            "看看{table}上有什么。",
            "这里有什么？",
        ),
        "where": (
            "{a}在哪里？",
            "{a}在哪儿？",
            "{a}在什么地方？",
            "{a}在什么位置？",
            "找到{a}。",
            "找一下{a}。",
            "哪里有{a}？",
            "{a}放在哪里了？",
            "告诉我{a}在哪里。",
            "你知道{a}在哪里吗？",
            "我要找{a}。",
            "{a}在{table}的哪里？",
            "指出{a}的位置。",
            "{a}的位置是哪里？",
            "能找到{a}吗？",
        ),
        "count": (
            "有几个{a}？",
            "有多少个{a}？",
            "{table}上有几个{a}？",
            "{image}有几个{a}？",
            "数一下{a}。",
            "{a}有几个？",
            "一共有几个{a}？",
            "{a}一共有多少个？",
            "数数有多少个{a}。",
            "告诉我有几个{a}。",
            "你看到几个{a}？",
            "{a}的数量是多少？",
            "{table}上一共有多少个{a}？",
            "能数一下{a}吗？",
            "这里有几个{a}？",
        ),
        "exists": (
            "有{a}吗？",
            "{table}上有{a}吗？",
            "有没有{a}？",
            "{image}有没有{a}？",
            "你看到{a}了吗？",
            "能看到{a}吗？",
            "这里有{a}吗？",
            "{table}上有没有{a}？",
            "是不是有{a}？",
            "存在{a}吗？",
            "告诉我有没有{a}。",
            "{a}在不在？",
            "看得到{a}吗？",
            "这里有没有{a}？",
            "{table}上是不是有{a}？",
        ),
        "compare": (
            "{a}在{b}的{rel}吗？",
            "{a}在{b}{rel}吗？",
            "{a}是不是在{b}{rel}？",
            "{a}在不在{b}{rel}？",
            "{a}是在{b}的{rel}吗？",
            "告诉我{a}是不是在{b}的{rel}。",
            "{a}位于{b}的{rel}吗？",
            "{a}放在{b}{rel}吗？",
            "{b}的{rel}是{a}吗？",
            "{b}{rel}的是不是{a}？",
            "你看{a}在{b}的{rel}吗？",
            "{a}真的在{b}{rel}吗？",
            "看一下{a}是不是在{b}{rel}。",
            "{a}是否在{b}{rel}？",
            "{a}应该在{b}的{rel}，对吗？",
        ),
        "nearest": (
            "哪个{object}离相机最近？",
            "离相机最近的是哪个{object}？",
            "什么离相机最近？",
            "最近的{object}是哪个？",
            "哪个{object}离你最近？",
            "离我们最近的是什么？",
            "告诉我哪个{object}最近。",
            "离镜头最近的是什么？",
            "哪个离相机最近？",
            "最近的是哪个{object}？",
            "离你最近的{object}是什么？",
            "哪个{object}最近？",
            "找出离相机最近的{object}。",
            "离相机最近的{object}是什么？",
            "哪个{object}离镜头最近？",
        ),
        "nearest_to": (
            "哪个{object}离{b}最近？",
            "离{b}最近的是哪个{object}？",
            "什么离{b}最近？",
            "离{b}最近的{object}是什么？",
            "告诉我哪个{object}离{b}最近。",
            "找出离{b}最近的{object}。",
            "哪个离{b}最近？",
            "离{b}最近的是什么？",
            "{b}最近的{object}是哪个？",
            "哪一个{object}离{b}最近？",
            "和{b}最近的{object}是什么？",
            "你看哪个{object}离{b}最近？",
            "说说哪个{object}离{b}最近。",
            "离{b}最近的{object}是哪个？",
            "什么{object}离{b}最近？",
        ),
        "what_at": (
            "{b}{rel}有什么？",
            "{b}的{rel}有什么？",
            "{b}{rel}是什么？",
            "什么在{b}{rel}？",
            "哪个{object}在{b}{rel}？",
            "{b}{rel}有哪些{object}？",
            "在{b}{rel}的是什么？",
            "{b}的{rel}有{object}吗？",
            "告诉我{b}{rel}有什么。",
            "{b}{rel}放着什么？",
            "看看{b}{rel}有什么。",
            "{b}的{rel}是哪个{object}？",
            "{b}{rel}的{object}是什么？",
            "你看到{b}{rel}有什么？",
            "说说{b}的{rel}有什么。",
        ),
        "distance": (
            "{a}离{b}多远？",
            "{a}和{b}之间的距离是多少？",
            "{a}和{b}相距多远？",
            "{a}到{b}有多远？",
            "{a}到{b}的距离是多少？",
            "量一下{a}和{b}的距离。",
            "{a}和{b}隔多远？",
            "告诉我{a}离{b}有多远。",
            "{a}跟{b}之间有多远？",
            "{a}离{b}有多少厘米？",
            "{a}和{b}之间有多少距离？",
            "从{a}到{b}有多远？",
            "{a}距离{b}多少米？",
            "测量{a}到{b}的距离。",
            "{a}与{b}的距离是多少？",
        ),
        "distance_to": (
            "{a}离我们多远？",
            "{a}有多远？",
            "{a}离相机多远？",
            "到{a}的距离是多少？",
            "{a}离你多远？",
            "{a}的距离是多少？",
            "量一下{a}有多远。",
            "告诉我{a}有多远。",
            "{a}距离相机多少米？",
            "离{a}有多远？",
            "{a}离镜头多远？",
            "{a}到相机有多远？",
            "相机到{a}的距离是多少？",
            "你离{a}多远？",
            "测量到{a}的距离。",
        ),
        "colour": (
            "{a}是什么颜色？",
            "{a}是什么颜色的？",
            "{a}的颜色是什么？",
            "{a}什么颜色？",
            "告诉我{a}的颜色。",
            "{a}是哪种颜色？",
            "你看{a}是什么颜色？",
            "{a}有什么颜色？",
            "{a}是啥颜色？",
            "{a}的颜色是哪种？",
            "说说{a}是什么颜色。",
            "{a}是红色还是什么颜色？",
            "那个{a}是什么颜色？",
            "看看{a}是什么颜色。",
            "请问{a}的颜色？",
        ),
        "size": (
            "{a}有多{adj}？",
            "{a}多{adj}？",
            "告诉我{a}有多{adj}。",
            "量一下{a}有多{adj}。",
            "你知道{a}有多{adj}吗？",
            "那个{a}有多{adj}？",
            "{a}大概有多{adj}？",
            "{a}到底有多{adj}？",
            "{a}有多少厘米{adj}？",
            "测量一下{a}多{adj}。",
            "我想知道{a}有多{adj}。",
            "{table}上的{a}有多{adj}？",
            "说说{a}有多{adj}。",
            "{a}是多{adj}？",
            "看看{a}有多{adj}。",
        ),
        "fits": (
            "{a}放得进{b}吗？",
            "{a}能放进{b}吗？",
            "{a}能放到{b}里吗？",
            "{b}放得下{a}吗？",
            "{b}能装下{a}吗？",
            "{b}装得下{a}吗？",
            "{a}可以放进{b}里吗？",
            "能把{a}放进{b}吗？",
            "{a}对{b}来说太大吗？",
            "{b}够大放{a}吗？",
            "看看{a}能不能放进{b}。",
            "{a}能不能放进{b}？",
            "告诉我{b}能不能放下{a}。",
            "{b}里有地方放{a}吗？",
            "{a}放进{b}合适吗？",
        ),
        "reading": (
            "{gauge}的读数是多少？",
            "{gauge}显示多少？",
            "{gauge}上是多少？",
            "读一下{gauge}。",
            "{gauge}的数值是多少？",
            "{gauge}指到多少？",
            "{gauge}现在是多少？",
            "告诉我{gauge}的读数。",
            "{gauge}指针在哪里？",
            "{gauge}显示的数值是多少？",
            "看看{gauge}是多少。",
            "{gauge}读多少？",
            "{gauge}的值是多少？",
            "能读一下{gauge}吗？",
            "{gauge}指着多少？",
        ),
        "text": (
            "{sign}上写着什么？",
            "{sign}上写了什么？",
            "{sign}上是什么字？",
            "读一下{sign}。",
            "{sign}上的字是什么？",
            "{sign}写的是什么？",
            "{sign}上有什么字？",
            "告诉我{sign}上写着什么。",
            "{sign}上的文字是什么？",
            "看看{sign}上写了什么。",
            "{sign}说什么？",
            "能读一下{sign}吗？",
            "{sign}上是什么？",
            "{sign}上写的什么？",
            "念一下{sign}。",
        ),
    },
}
HELD_OUT = {
    "en": {
        "list": (
            "Which {object}s do you see on the {table}?",
            "Tell me all the {object}s in the {image}.",
            "What stands on the {table}?",
        ),
        "where": (
            "Tell me on which side the {a} is.",
            "Can you tell me where the {a} is?",
            "Where is the {a} in the {image}?",
        ),
        "count": (
            "Can you tell me how many {a}s are there?",
            "How many {a}s does the {image} show?",
            "Tell me the number of {a}s.",
        ),
        "exists": (
            "Can you find a {a} here?",
            "Tell me if there is a {a} on the {table}.",
            "Do you know if there is a {a}?",
        ),
        "compare": (
            "Can you see if the {a} is {rel} the {b}?",
            "Do you think the {a} is {rel} the {b}?",
            "Is the {a} there {rel} the {b}?",
        ),
        "nearest": (
            "Do you know which {object} is nearest to the camera?",
            "Which {object} do you see closest to the camera?",
            "What stands nearest to the camera?",
        ),
        "nearest_to": (
            "Do you know which {object} is closest to the {b}?",
            "Can you find the {object} nearest to the {b}?",
            "Which {object} do you see nearest to the {b}?",
        ),
        "what_at": (
            "Can you tell me what is {rel} the {b}?",
            "Which {object}s are {rel} the {b}?",
            "Show me what is {rel} the {b}.",
        ),
        "distance": (
            "Can you tell me how far the {a} is from the {b}?",
            "How many centimetres is the {a} from the {b}?",
            "Tell me the distance between the {a} and the {b}.",
        ),
        "distance_to": (
            "Can you tell me how far away the {a} is?",
            "How many centimetres is it to the {a}?",
            "How far is the {a} away from the camera?",
        ),
        "colour": (
            "Do you know what colour the {a} is?",
            "Tell me which colour the {a} has.",
            "Can you see the colour of the {a}?",
        ),
        "size": (
            "Can you measure how {adj} the {a} is?",
            "How {adj} do you think the {a} is?",
            "Give me a measure: how {adj} is the {a}?",
        ),
        "fits": (
            "Can you tell me if the {a} fits into the {b}?",
            "Would there be room for the {a} in the {b}?",
            "Is the {a} small enough to go into the {b}?",
        ),
        "reading": (
            "Can you tell me what the {gauge} shows?",
            "Which value do you read on the {gauge}?",
            "Tell me the value on the {gauge}.",
        ),
        "text": (
            "Can you tell me what is written on the {sign}?",
            "Which word do you see on the {sign}?",
            "Tell me the word on the {sign}.",
        ),
    },
    "zh": {
        "list": ("你看到{table}上有哪些{object}？", "告诉我{image}有哪些{object}。", "说说{table}上放着什么。"),
        "where": ("你能告诉我{a}在哪里吗？", "看看{a}在什么地方。", "{image}的{a}在哪里？"),
        "count": ("你知道有几个{a}吗？", "看看有多少个{a}。", "{image}一共有几个{a}？"),
        "exists": ("看看有没有{a}。", "你知道这里有{a}吗？", "{image}能看到{a}吗？"),
        "compare": ("你知道{a}是不是在{b}的{rel}吗？", "看看{a}在不在{b}{rel}。", "{a}是否位于{b}的{rel}？"),
        "nearest": ("你知道哪个{object}离相机最近吗？", "看看什么离相机最近。", "说说离镜头最近的是哪个{object}。"),
        "nearest_to": ("你知道哪个{object}离{b}最近吗？", "看看什么离{b}最近。", "说说离{b}最近的是什么。"),
        "what_at": ("你知道{b}{rel}有什么吗？", "说说什么在{b}的{rel}。", "看看在{b}{rel}的是哪个{object}。"),
        "distance": ("你知道{a}离{b}有多远吗？", "看看{a}到{b}有多远。", "说说{a}和{b}之间的距离。"),
        "distance_to": ("你知道{a}有多远吗？", "看看{a}离相机有多远。", "说说到{a}的距离是多少。"),
        "colour": ("你知道{a}是什么颜色吗？", "看看{a}的颜色是什么。", "我想知道{a}是什么颜色的。"),
        "size": ("能告诉我{a}有多{adj}吗？", "你看{a}有多{adj}？", "请测量{a}有多{adj}。"),
        "fits": ("你知道{a}能放进{b}吗？", "说说{b}装不装得下{a}。", "看看{b}放不放得下{a}。"),
        "reading": ("你知道{gauge}的读数是多少吗？", "看看{gauge}指到多少。", "说说{gauge}显示的是多少。"),
        "text": ("你知道{sign}上写着什么吗？", "说说{sign}上是什么字。", "请告诉我{sign}上的字。"),
    },
}
_BEFORE = {
    "en": ("Please, ", "Hey, ", "Excuse me, ", "Robot, ", "Tell me, ", "Hi, ", "Well, ", "Now, ", "Okay, "),
    "zh": ("请问", "你好，", "请问一下，", "麻烦问一下，", "嘿，", "那么，", "机器人，", "现在，", "请，"),
}
_AFTER = {"en": (", please", ", thanks"), "zh": ("呢",)}
# A question that goes on from the one before it.
FOLLOW_UPS = {
    "en": {
        "where": ("And where is it?", "Where is it?", "And where exactly?", "Where is it standing?"),
        "colour": ("And what colour is it?", "What colour is it?", "Which colour does it have?"),
        "size": ("And how {adj} is it?", "How {adj} is it?", "Tell me how {adj} it is.", "And how {adj} would it be?"),
        "distance_to": ("And how far is it?", "How far away is it?", "How far is it from the camera?"),
        "distance": ("And how far is it from the {b}?", "How far is it from the {b}?"),
        "compare": ("And is it {rel} the {b}?", "Is it {rel} the {b}?", "Does it stand {rel} the {b}?"),
        "fits": ("And does it fit in the {b}?", "Does it fit into the {b}?", "Will it fit in the {b}?"),
        "again": ("And the {a}?", "What about the {a}?", "And what about the {a}?", "How about the {a}?"),
    },
    "zh": {
        "where": ("它在哪里？", "那它在哪儿？", "它在什么位置？"),
        "colour": ("它是什么颜色？", "那它是什么颜色的？", "它的颜色是什么？"),
        "size": ("它有多{adj}？", "那它有多{adj}？", "它多{adj}？"),
        "distance_to": ("它有多远？", "那它离我们多远？", "它离相机多远？"),
        "distance": ("它离{b}多远？", "那它到{b}有多远？"),
        "compare": ("它在{b}的{rel}吗？", "那它在{b}{rel}吗？", "它是不是在{b}{rel}？"),
        "fits": ("它放得进{b}吗？", "那{b}放得下它吗？", "它能放进{b}吗？"),
        "again": ("{a}呢？", "那{a}呢？", "还有{a}呢？"),
    },
}
HELD_OUT_FOLLOW_UPS = {
    "en": {
        "where": ("Can you tell me where it is?",),
        "colour": ("Tell me what colour it is.",),
        "size": ("Can you tell me how {adj} it is?",),
        "distance_to": ("Tell me how far away it is.",),
        "distance": ("Tell me how far it is from the {b}.",),
        "compare": ("Can you see if it is {rel} the {b}?",),
        "fits": ("Is there room for it in the {b}?",),
        "again": ("Now what about the {a}?",),
    },
    "zh": {
        "where": ("你知道它在哪里吗？",),
        "colour": ("看看它是什么颜色。",),
        "size": ("你知道它有多{adj}吗？",),
        "distance_to": ("你知道它有多远吗？",),
        "distance": ("看看它离{b}多远。",),
        "compare": ("看看它在不在{b}{rel}。",),
        "fits": ("看看它能不能放进{b}。",),
        "again": ("那么{a}呢？",),
    },
}
_ASKED_ALONE = frozenset(f for kinds in HELD_OUT.values() for forms in kinds.values() for f in forms)
COMPOSED = 0.4  # of the questions are said within another sentence (indirect.py), or with a word after them
_TAILS = (" here", " there", " now", " in the {image}", " on the {table}", " exactly")
_WORDS = re.compile(r"\{(object|table|image|gauge|sign)\}")
_CHINESE = dict(object="物体", table="桌子", image="图中", gauge="仪表", sign="标牌")


class Speaker:
    """Says things as people do. language: "en" or "zh"; held_out: with the sentence forms of the evaluation alone."""

    def __init__(self, rng: np.random.Generator, language: str, held_out: bool = False):
        self.rng, self.language, self.held_out = rng, language, held_out
        self.said: dict[str, str] = {}  # what the last form called a and b
        self._forms = (HELD_OUT if held_out else FORMS)[language]
        self._follow_ups = (HELD_OUT_FOLLOW_UPS if held_out else FOLLOW_UPS)[language]

    def choose(self, options):
        return options[int(self.rng.integers(len(options)))]

    def form(self, kind: str, follow_up: bool = False, **names: str) -> str:
        """A sentence of the kind about names (as the model calls them; `called` changes some); rel and adj are keys."""
        template = self._template(kind, follow_up)
        if "rel" in names:
            names["rel"] = self.choose(SAID_RELATIONS[self.language][names["rel"]])
        if "adj" in names:
            names["adj"] = self.choose(SIZES[self.language][names["adj"]])
        for key in ("a", "b"):
            if key in names:
                names[key] = self.called(names[key])
        self.said = {key: names[key] for key in ("a", "b") if key in names}
        template = _WORDS.sub(lambda m: self.called(m[1] if self.language == "en" else _CHINESE[m[1]]), template)
        return self.politely(self._grammar(template.format(**names)))

    def _template(self, kind: str, follow_up: bool) -> str:
        if follow_up:
            return self.choose(self._follow_ups[kind])
        if self.held_out or self.rng.random() >= COMPOSED:
            return self.choose(self._forms[kind])
        template = ""
        while not template or template in _ASKED_ALONE:
            if self.language == "zh" or self.rng.random() < 0.8:
                template = indirect.sentence(self.language, kind, self.choose)
            else:
                plain = [f for f in self._forms[kind] if f[-1] == "?" and "{image}" not in f and "{table}" not in f]
                template = self.choose(plain)[:-1] + self.choose(_TAILS) + "?"
        return template

    def called(self, name: str) -> str:
        """A name, with another word for its kind or without the Chinese 的 now and then."""
        words = SYNONYMS[self.language]
        kind = name.split(" ")[-1] if self.language == "en" else name.split("的")[-1]
        if kind in words and self.rng.random() < 0.35:
            name = name[: len(name) - len(kind)] + self.choose(words[kind])
        if self.language == "zh" and self.rng.random() < 0.35:
            name = name.replace("色的", "色" if self.rng.random() < 0.5 else "")
        return name

    def politely(self, sentence: str) -> str:
        if self.rng.random() < 0.25:
            before = self.choose(_BEFORE[self.language])
            sentence = before + (sentence[0].lower() + sentence[1:] if not sentence.startswith("I ") else sentence)
        if self.rng.random() < 0.1 and sentence[-2] not in "吗呢" and sentence[-1] != "。":
            sentence = sentence[:-1] + self.choose(_AFTER[self.language]) + sentence[-1]
        if self.rng.random() < 0.2:  # many keyboards write them so
            sentence = sentence.replace("，", ",").replace("？", "?")
        if self.rng.random() < 0.12:
            sentence = sentence[:-1] if sentence[-1] in "?.？。" else sentence
        elif self.rng.random() < 0.06:
            sentence = sentence.lower()
        return sentence

    @staticmethod
    def _grammar(sentence: str) -> str:
        sentence = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", sentence)
        return re.sub(
            r"\b(box|dish|shelf)s\b", lambda m: {"box": "boxes", "dish": "dishes", "shelf": "shelves"}[m[1]], sentence
        )


def corpus() -> list[str]:
    """Every training form, for the tokenizer: held-out forms use words of these."""
    forms = [f for of in (FORMS, FOLLOW_UPS) for kinds in of.values() for form in kinds.values() for f in form]
    return forms + indirect.corpus()
