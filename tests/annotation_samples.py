"""A small file of each format of annotations, written after the tools' own descriptions, and what is in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Actions = list[tuple[float, float, str]]


@dataclass
class Sample:
    """A file, its name, what it needs to be read, and the actions in it by video."""

    name: str
    content: str
    videos: dict[str, Actions]
    options: dict[str, Any] = field(default_factory=dict)
    asked: bool = False


ELAN = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2026-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0">
  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///home/me/match%201.mp4" MIME_TYPE="video/mp4"/>
  </HEADER>
  <TIME_ORDER>
    <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="1500"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="3000"/>
    <TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="4000"/><TIME_SLOT TIME_SLOT_ID="ts4" TIME_VALUE="4250"/>
    <TIME_SLOT TIME_SLOT_ID="ts5"/>
  </TIME_ORDER>
  <TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="kick">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
      <ANNOTATION_VALUE></ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts3" TIME_SLOT_REF2="ts4">
      <ANNOTATION_VALUE>jump &amp; run</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a3" TIME_SLOT_REF1="ts4" TIME_SLOT_REF2="ts5">
      <ANNOTATION_VALUE>part</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
</ANNOTATION_DOCUMENT>
"""
TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 10
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "action"
        xmin = 0
        xmax = 10
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 1.5
            text = ""
        intervals [2]:
            xmin = 1.5
            xmax = 3
            text = "kick ""hard"" 2"
    item [2]:
        class = "TextTier"
        name = "hits"
        xmin = 0
        xmax = 10
        points: size = 1
        points [1]:
            number = 4.5
            mark = "hit"
"""
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><name>one</name><size>100</size><mode>interpolation</mode><source>match.mp4</source></task></meta>
  <track id="0" label="kick" source="manual">
    <box frame="10" keyframe="1" outside="0" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9"></box>
    <box frame="19" keyframe="1" outside="0" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9"></box>
    <box frame="20" keyframe="1" outside="1" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9"></box>
    <box frame="50" keyframe="1" outside="0" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9"></box>
    <box frame="59" keyframe="1" outside="0" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9"></box>
  </track>
</annotations>
"""
VIA = {
    "project": {"pid": "x", "pname": "one", "vid_list": ["1"]},
    "config": {},
    "attribute": {
        "1": {"aname": "ACTION", "anchor_id": "FILE1_Z2_XY0", "type": 4, "options": {"0": "kick", "1": "jump"}}
    },
    "file": {"1": {"fid": "1", "fname": "match.mp4", "type": 4, "loc": 1, "src": ""}},
    "view": {"1": {"fid_list": ["1"]}},
    "metadata": {
        "1_a": {"vid": "1", "flg": 0, "z": [1.5, 3.0], "xy": [], "av": {"1": "0"}},
        "1_b": {"vid": "1", "flg": 0, "z": [4.0, 4.25], "xy": [], "av": {"1": "1"}},
        "1_c": {"vid": "1", "flg": 0, "z": [4.0], "xy": [2, 10, 10, 20, 20], "av": {"1": "1"}},
    },
}
VIDAT = {
    "version": "2.0.7",
    "annotation": {
        "video": {"src": "video/match.mp4", "fps": 10, "frames": 100, "duration": 10.0},
        "actionAnnotationList": [
            {"start": 1.5, "end": 3, "action": 1, "object": 0, "color": "#00ff00", "description": ""},
        ],
    },
    "config": {"actionLabelData": [{"id": 0, "name": "default"}, {"id": 1, "name": "kick"}]},
}
BORIS = {
    "project_format_version": "7.0",
    "behaviors_conf": {
        "0": {"type": "State event", "key": "k", "code": "kick"},
        "1": {"type": "Point event", "key": "h", "code": "hit"},
    },
    "subjects_conf": {},
    "observations": {
        "first": {
            "file": {"1": ["/home/me/a.mp4", "/home/me/b.mp4"], "2": []},
            "type": "MEDIA",
            "media_info": {"length": {"/home/me/a.mp4": 10.0, "/home/me/b.mp4": 20.0}},
            "events": [
                [1.5, "Ann", "kick", "", ""],
                [2.0, "Bob", "kick", "", ""],
                [3.0, "Ann", "kick", "", ""],
                [4.0, "Bob", "kick", "", ""],
                [12.5, "Ann", "hit", "", ""],
            ],
        }
    },
}
LABEL_STUDIO = [
    {
        "id": 1,
        "data": {"video": "/data/upload/1/3d3ad63e-match.mp4"},
        "annotations": [
            {"was_cancelled": True, "result": []},
            {
                "result": [
                    {
                        "type": "timelinelabels",
                        "value": {"ranges": [{"start": 31, "end": 60}], "timelinelabels": ["kick"]},
                    },
                    {"type": "choices", "value": {"choices": ["good"]}},
                ]
            },
        ],
    },
    {"id": 2, "data": {"video": "/data/local-files/?d=day/two.mp4"}, "annotations": []},
]
SOCCERNET = {
    "UrlLocal": "league/2015/match/",
    "annotations": [
        {"gameTime": "1 - 00:04", "label": "Kick-off", "position": "4042", "team": "home", "visibility": "visible"},
        {"gameTime": "2 - 01:10", "label": "Goal"},
    ],
}
OPEN_SPORTS = {
    "version": "2.0",
    "labels": {"action": {"type": "single_label", "labels": ["pass"]}},
    "data": [
        {
            "id": "m1",
            "inputs": [{"type": "video", "path": "train/videos/m1.mp4", "fps": 25}],
            "events": [
                {"head": "action", "label": "pass", "position_ms": 1500},
                {"head": "action", "label": "pass", "gameTime": "1 - 00:04"},
            ],
        }
    ],
}
X_ANYLABELING = {
    "version": "1.0.0",
    "type": "video_classification",
    "video": "sample.mp4",
    "fps": 30.0,
    "duration_ms": 120000,
    "labels": ["run"],
    "segments": [
        {"id": "s1", "label": "run", "start_ms": 1000, "end_ms": 3500, "start_frame": 30, "end_frame": 105},
    ],
}
CVAT_JSON = [
    {
        "version": 0,
        "tags": [{"frame": frame, "label": "jump", "source": "manual"} for frame in (3, 4, 5, 9)],
        "shapes": [],
        "tracks": [
            {
                "label": "kick",
                "frame": 10,
                "shapes": [{"frame": 10, "outside": False}, {"frame": 20, "outside": True}],
            }
        ],
    }
]
SRT = "1\n00:00:01,500 --> 00:00:03,000\n<b>kick</b> (0.91)\n\n2\n01:00:04,000 --> 01:00:04,250\njump\n"
VTT = "WEBVTT\n\nNOTE made by hand\n\nfirst\n00:01.500 --> 00:03.000 line:0\njump &amp; run\n"
TABULAR = (
    "Observation id\tfirst\n\n"
    "Time\tMedia file path\tTotal length\tFPS\tSubject\tBehavior\tBehavioral category\tStatus\n"
    "1.5\ta.mp4\t10\t25\tAnn\tkick\t\tSTART\n2\ta.mp4\t10\t25\tAnn\thit\t\tPOINT\n3\ta.mp4\t10\t25\tAnn\tkick\t\tSTOP\n"
)
AGGREGATED = (
    "Observation id,Media file name,Subject,Behavior,Behavior type,Start (s),Stop (s),Duration (s)\n"
    "first,a.mp4,Ann,kick,STATE,1.5,3.0,1.5\nfirst,a.mp4,Ann,hit,POINT,4.0,4.0,NA\n"
)
# The rows of their repositories' READMEs, and of EPIC_Sounds_validation.csv.
EPIC = """narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,\
stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes
P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:03.37,8,202,open door,open,3,door,3,['door'],[3]
P01_01_1,P01,P01_01,00:00:02.629,00:01:04.37,01:00:06.17,262,370,turn on light,turn-on,6,light,114,['light'],[114]
"""
EPIC_SOUNDS = """annotation_id,participant_id,video_id,start_timestamp,stop_timestamp,description,class,class_id
P01_11_0,P01,P01_11,00:00:02.069,00:00:02.993,clang / clatter,ceramic / wood collision,34
P01_12_18,P01,P01_12,00:01:12.129,00:01:13.129,inhale/exhale,ceramic-only collision,14
"""
CHARADES = """id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length
46GP8,HR43,Kitchen,6,7,Yes,"A person cooks, eats.",food;stove,Cooks.,c092 11.90 21.20;c147 0.00 12.60,24.83
N11GT,0KZ7,Bedroom,,7,Yes,A person sleeps.,bed,"Sleeps, wakes.",,30.5
"""
EGO4D = {
    "version": "1",
    "videos": [
        {
            "video_uid": "c922a13b",
            "split": "train",
            "clips": [
                {
                    "clip_uid": "63c1d2c4",
                    "video_start_sec": 100.5,
                    "video_end_sec": 580.5,
                    "annotations": [
                        {
                            "labels": [
                                {
                                    "primary": True,
                                    "video_start_time": 102,
                                    "video_end_time": 104.25,
                                    "label": "use_phone",
                                },
                                {"primary": False, "video_start_time": 110, "video_end_time": 111, "label": "walk"},
                            ]
                        },
                        {
                            "labels": [
                                {"primary": True, "video_start_time": 110, "video_end_time": 111, "label": "walk"}
                            ]
                        },
                    ],
                },
                {"clip_uid": "left", "video_start_sec": 0, "video_end_sec": 9, "annotations": []},
            ],
        },
        {"split": "test", "clips": [{"clip_uid": "kept", "video_start_sec": -0.02, "video_end_sec": 480}]},
    ],
}
SAMPLES: dict[str, list[Sample]] = {
    "elan": [Sample("a.eaf", ELAN, {"match 1.mp4": [(1.5, 3, "kick"), (4, 4.25, "jump & run")]})],
    "cvat": [
        Sample("a.xml", CVAT, {"match.mp4": [(1, 2, "kick"), (5, 6, "kick")]}, {"frame_rate": 10}),
        Sample(
            "a.json",
            json.dumps(CVAT_JSON),
            {"a": [(1, 2, "kick"), (0.3, 0.6, "jump"), (0.9, 1, "jump")]},
            {"frame_rate": 10},
        ),
    ],
    "label-studio": [
        Sample(
            "a.json",
            json.dumps(LABEL_STUDIO),
            {"match.mp4": [(1, 2, "kick")], "two.mp4": []},
            {"frame_rate": 30},
        )
    ],
    "via": [Sample("a.json", json.dumps(VIA), {"match.mp4": [(1.5, 3, "kick"), (4, 4.25, "jump")]})],
    "vidat": [Sample("a.json", json.dumps(VIDAT), {"video/match.mp4": [(1.5, 3, "kick")]})],
    "boris": [
        Sample(
            "a.boris",
            json.dumps(BORIS),
            {"a.mp4": [(1.5, 3, "kick"), (2, 4, "kick")], "b.mp4": [(2.5, 2.5, "hit")]},
        )
    ],
    "boris-table": [
        Sample("a.tsv", TABULAR, {"a.mp4": [(2, 2, "hit"), (1.5, 3, "kick")]}),
        Sample("a.csv", AGGREGATED, {"a.mp4": [(1.5, 3, "kick"), (4, 4, "hit")]}),
    ],
    "soccernet": [
        Sample(
            "Labels-v2.json",
            json.dumps(SOCCERNET),
            {
                "league/2015/match/1_720p": [(4.042, 4.042, "Kick-off")],
                "league/2015/match/2_720p": [(70, 70, "Goal")],
            },
        )
    ],
    "opensportslib": [
        Sample("a.json", json.dumps(OPEN_SPORTS), {"train/videos/m1.mp4": [(1.5, 1.5, "pass"), (4, 4, "pass")]})
    ],
    "x-anylabeling": [Sample("sample.json", json.dumps(X_ANYLABELING), {"sample.mp4": [(1, 3.5, "run")]})],
    "subtitles": [
        Sample("a.srt", SRT, {"a": [(1.5, 3, "kick"), (3604, 3604.25, "jump")]}),
        Sample("a.vtt", VTT, {"a": [(1.5, 3, "jump & run")]}),
    ],
    "textgrid": [
        Sample(
            "a.TextGrid",
            '"ooTextFile"\n"TextGrid"\n0 9 ! 3 of it\n<exists>\n1 tier\n"IntervalTier" "x" ! "tier" 1\n0 9\n'
            '1 interval\n0 9 "run! 2"\n',
            {"a": [(0, 9, "run! 2")]},
        ),
        Sample("a.TextGrid", TEXTGRID, {"a": [(1.5, 3, 'kick "hard" 2'), (4.5, 4.5, "hit")]}),
    ],
    "audacity": [
        Sample(
            "a.txt", "1.500000\t3.000000\tkick\n\\\t100.0\t200.0\n4\t4\thit\n", {"a": [(1.5, 3, "kick"), (4, 4, "hit")]}
        )
    ],
    "frame-runs": [
        Sample("a.txt", "1-15 SIL  \n16-30 take_cup  \n31-45 SIL\n", {"a": [(1.5, 3, "take_cup")]}, {"frame_rate": 10})
    ],
    "frame-labels": [
        Sample(
            "a.txt",
            "background\nkick\nkick\njump\n",
            {"a": [(0.1, 0.3, "kick"), (0.3, 0.4, "jump")]},
            {"frame_rate": 10},
            asked=True,
        )
    ],
    "deepethogram": [
        Sample(
            "clip_labels.csv",
            ",background,kick,jump\n0,1,0,0\n1,0,1,0\n2,0,1,1\n3,1,0,0\n",
            {"clip": [(0.1, 0.3, "kick"), (0.2, 0.3, "jump")]},
            {"frame_rate": 10},
        )
    ],
    "epic-verbs": [
        Sample("EPIC_100_train.csv", EPIC, {"P01_01": [(0.14, 3.37, "id_003"), (64.37, 3606.17, "id_006")]}, asked=True)
    ],
    "epic-nouns": [
        Sample("EPIC_100_train.csv", EPIC, {"P01_01": [(0.14, 3.37, "id_003"), (64.37, 3606.17, "id_114")]}, asked=True)
    ],
    "epic-actions": [
        Sample(
            "EPIC_100_train.csv",
            EPIC,
            {"P01_01": [(0.14, 3.37, "id_003,id_003"), (64.37, 3606.17, "id_006,id_114")]},
            asked=True,
        )
    ],
    "epic-sounds": [
        Sample(
            "EPIC_Sounds_validation.csv",
            EPIC_SOUNDS,
            {"P01_11": [(2.069, 2.993, "id_034")], "P01_12": [(72.129, 73.129, "id_014")]},
        )
    ],
    "charades": [
        Sample("Charades_v1_train.csv", CHARADES, {"46GP8": [(11.9, 21.2, "c092"), (0, 12.6, "c147")], "N11GT": []})
    ],
    "ego4d": [
        Sample(
            "moments_train.json",
            json.dumps(EGO4D),
            {"63c1d2c4": [(1.5, 3.75, "use_phone"), (9.5, 10.5, "walk")], "kept": []},
        )
    ],
    "thumos": [
        Sample(
            "BasketballDribble.txt",
            "video_validation_0000266 72.80 76.40\nvideo_test_0000682  79.30 83.90 \n",
            {
                "video_validation_0000266": [(72.8, 76.4, "BasketballDribble")],
                "video_test_0000682": [(79.3, 83.9, "BasketballDribble")],
            },
        )
    ],
    "table": [
        Sample(
            "a.csv",
            "file,start,end,label\nx/a.mp4,1.5,3,kick\nb.mp4,0:04,0:04.25,jump\n",
            {"x/a.mp4": [(1.5, 3, "kick")], "b.mp4": [(4, 4.25, "jump")]},
        ),
        Sample(
            "a.tsv",
            "Video Name\tstartTime (ms)\tduration\tClass\nb.mp4\t1500\t1500\tkick\n",
            {"b.mp4": [(1.5, 3, "kick")]},
        ),
        Sample(
            "a.csv",
            "video;start_frame;end_frame;action\nb.mp4;15;30;kick\n",
            {"b.mp4": [(1.5, 3, "kick")]},
            {"frame_rate": 10},
        ),
        Sample("a.csv", "label;from;to\nkick;1,5;3,0\n", {"a": [(1.5, 3, "kick")]}),
        Sample("a.csv", "b.mp4,1.5,3,kick\n", {"b.mp4": [(1.5, 3, "kick")]}),
        Sample("a.csv", "timestamp,event\n00:00:01:05,hit\n", {"a": [(1.5, 1.5, "hit")]}, {"frame_rate": 10}),
    ],
}
