"""What the configs of OpenTAD (https://github.com/sming256/OpenTAD) say, as numbers: those of Re2TAL and of AdaTAD.

Read with the files that they build on (`_base_/datasets/thumos-14/e2e_train_trunc_test_sw_256x224x224.py`,
`_base_/datasets/activitynet-1.3/e2e_resize_768_1x224x224.py`, `_base_/models/actionformer.py`) at the commits cd0ca96
(rewired), 01c58b9 (plain) and 1e4c962 (plain SlowFast on THUMOS-14). Names are OpenTAD's; lengths count features, and
a video of THUMOS-14 has 30 frames a second. `ImgAug` (operations, strength), `ColorJitter`, `RandomResizedCrop` and the
average of the weights are at the defaults of mmaction2 and OpenTAD.
Of AdaTAD `e2e_{thumos_videomae_{s,b,l}_768x1,anet_videomae_{s,b,l}_192x4}_160_adapter.py`, at 01c58b9 and (ActivityNet,
L) ac1a42d, `opentad/models/backbones/vit_adapter.py` at 01c58b9, and the figures of its README.
"""

from typing import Any

EVERY: dict[str, Any] = {
    "Resize": 256,
    "RandomResizedCrop.area_range": (0.08, 1.0),
    "RandomResizedCrop.aspect_ratio_range": (3 / 4, 4 / 3),
    "crop": 224,
    "Flip.flip_ratio": 0.5,
    "ImgAug": (2, 9 / 10),
    "ColorJitter": (0.5, 0.5, 0.5, 0.1),
    "test.Resize": 224,
    "test.CenterCrop": 224,
    "mean": (123.675, 116.28, 103.53),
    "std": (58.395, 57.12, 57.375),
    "norm_eval": True,
    "arch": (2, 2, 5),
    "n_head": 4,
    "n_mha_win_size": -1,
    "path_pdrop": 0.1,
    "num_levels": 6,
    "num_convs": 2,
    "cls_prior_prob": 0.01,
    "regression_range": ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10000)),
    "loss_normalizer_momentum": 0.9,
    "center_sample_radius": 1.5,
    "clip_grad_norm": 1,
    "amp": True,
    "ema": 0.999,
    "weight_decay": 0.05,
    "backbone.lr": 1e-5,
    "warmup_epoch": 5,
    "use_soft_nms": True,
    "sigma": 0.7,
    "min_score": 0.001,
}

THUMOS: dict[str, Any] = {
    "window_size": 512,
    "scale_factor": 2,
    "feature_stride": 4,
    "trunc_thresh": 0.75,
    "crop_ratio": (0.9, 1.0),
    "window_overlap_ratio": 0.5,
    "out_channels": 512,
    "use_abs_pe": False,
    "label_smoothing": 0.0,
    "loss_weight": 1.0,
    "loss_normalizer": 100,
    "batch_size": 2,
    "lr": 1e-4,
    "max_epoch": 1500,
    "end_epoch": 120,
    "val_eval_interval": 5,
    "val_start_epoch": 79,
    "max_seg_num": 2000,
    "multiclass": True,
    "voting_thresh": 0.7,
    "tiou_thresholds": (0.3, 0.4, 0.5, 0.6, 0.7),
    "class_agnostic": False,
}

ACTIVITYNET: dict[str, Any] = {
    "resize_length": 192,
    "scale_factor": 4,
    "out_channels": 256,
    "use_abs_pe": True,
    "label_smoothing": 0.1,
    "loss_weight": 2.0,
    "loss_normalizer": 200,
    "batch_size": 8,
    "lr": 1e-3,
    "max_epoch": 15,
    "end_epoch": 15,
    "val_eval_interval": 1,
    "val_start_epoch": 8,
    "max_seg_num": 100,
    "multiclass": False,
    "voting_thresh": 0.9,
    "tiou_thresholds": (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
    "class_agnostic": True,
    "external_cls.topk": 2,
    "prefix": "v_",
    "data_path": "15fps_short256",
    "block_list": "missing_files.txt",  # videos that are neither trained on nor given detections
    "blocked_videos": "blocked.json",  # videos that are not measured by
}

SWIN: dict[str, Any] = {
    "patch_size": (2, 4, 4),
    "embed_dim": 96,
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "window_size": (8, 7, 7),
    "mlp_ratio": 4.0,
    "drop_rate": 0.0,
    "in_channels": 768,
}

SLOWFAST: dict[str, Any] = {
    "depth": 101,
    "resample_rate": 4,
    "speed_ratio": 4,
    "channel_ratio": 8,
    "fusion_kernel": 7,
    "in_channels": 2304,
}

ADATAD: dict[str, Any] = {
    "Resize": 182,
    "crop": 160,
    "test.Resize": 160,
    "test.CenterCrop": 160,
    "norm_eval": False,
}
THUMOS_ADATAD = (
    THUMOS
    | ADATAD
    | {
        "window_size": 768,
        "scale_factor": 1,
        "max_epoch": 100,
        "end_epoch": 60,
        "val_eval_interval": 2,
        "val_start_epoch": 40,
        "min_score": 0.0,  # not named, and so the default of `batched_nms`
        "backbone.lr": 1e-4,  # of the adapters; 0 of the rest
    }
)
ACTIVITYNET_ADATAD = ACTIVITYNET | ADATAD | {"batch_size": 16, "backbone.lr": 1e-4}

VIDEOMAE: dict[str, Any] = {
    "patch_size": 16,
    "num_frames": 16,
    "tubelet_size": 2,
    "mlp_ratio": 4,
    "adapter.mlp_ratio": 0.25,
}
VIDEOMAE_S = VIDEOMAE | {"embed_dims": 384, "depth": 12, "num_heads": 6, "in_channels": 384}
VIDEOMAE_B = VIDEOMAE | {"embed_dims": 768, "depth": 12, "num_heads": 12, "in_channels": 768}
VIDEOMAE_L = VIDEOMAE | {"embed_dims": 1024, "depth": 24, "num_heads": 16, "in_channels": 1024}

PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any], bool, float]] = {
    "thumos14_swin_tiny": (THUMOS, SWIN | {"drop_path_rate": 0.2}, True, 66.89),
    "thumos14_swin_tiny_plain": (THUMOS, SWIN | {"drop_path_rate": 0.1}, False, 67.10),
    "thumos14_slowfast_101": (THUMOS, SLOWFAST, True, 70.19),
    "thumos14_slowfast_101_plain": (THUMOS, SLOWFAST, False, 69.97),
    "activitynet_swin_tiny": (ACTIVITYNET, SWIN | {"drop_path_rate": 0.2}, True, 36.47),
    "activitynet_swin_tiny_plain": (ACTIVITYNET, SWIN | {"drop_path_rate": 0.1}, False, 36.89),
    "activitynet_slowfast_101": (ACTIVITYNET, SLOWFAST, True, 37.55),
    "activitynet_slowfast_101_plain": (ACTIVITYNET, SLOWFAST, False, 37.35),
    "thumos14_adatad_small": (THUMOS_ADATAD | {"backbone.lr": 2e-4}, VIDEOMAE_S, False, 69.03),
    "thumos14_adatad_base": (THUMOS_ADATAD, VIDEOMAE_B, False, 71.14),
    "thumos14_adatad_large": (THUMOS_ADATAD, VIDEOMAE_L, False, 73.51),
    "activitynet_adatad_small": (ACTIVITYNET_ADATAD, VIDEOMAE_S, False, 37.81),
    "activitynet_adatad_base": (ACTIVITYNET_ADATAD, VIDEOMAE_B, False, 38.35),
    "activitynet_adatad_large": (ACTIVITYNET_ADATAD, VIDEOMAE_L, False, 39.21),
}
"""By recipe: the settings of data and training, of the backbone, whether it is rewired, and the published mAP."""

FEATURES: dict[str, dict[str, Any]] = {
    "multithumos": {
        "in_channels": 2048,
        "arch": (3, 0, 5),
        "feature_stride": 4,
        "offset_frames": 8,
        "fps": None,
        "trunc_len": 2304,
        "pre_nms_topk": 8000,
        "max_seg_num": 8000,
        "batch_size": 2,
        "max_epoch": 65,
        "end_epoch": 45,
        "val_start_epoch": 35,
        "tiou_thresholds": tuple(n / 10 for n in range(1, 10)),
    },
    "charades": {
        "in_channels": 1024,
        "feature_stride": 8,
        "offset_frames": 0,
        "fps": 24,
        "trunc_len": 768,
        "pre_nms_topk": 8000,
        "max_seg_num": 8000,
        "batch_size": 16,
        "max_epoch": 15,
        "end_epoch": 10,
        "val_start_epoch": 5,
        "tiou_thresholds": tuple(n / 10 for n in range(1, 10)),
    },
    "verbs": {
        "in_channels": 2304,
        "n_mha_win_size": 9,
        "regression_range": ((0, 4), (2, 8), (4, 16), (8, 32), (16, 64), (32, 10000)),
        "loss_normalizer": 250,
        "feature_stride": 16,
        "offset_frames": 16,
        "fps": 30,
        "trunc_len": 2304,
        "trunc_thresh": 0.3,
        "sigma": 0.4,
        "pre_nms_topk": 5000,
        "max_seg_num": 2000,
        "batch_size": 2,
        "max_epoch": 20,
        "end_epoch": 20,
        "val_start_epoch": 15,
        "tiou_thresholds": (0.1, 0.2, 0.3, 0.4, 0.5),
    },
}
"""ActionFormer on features, by the run in `recipes/benchmarks.md`: `configs/actionformer/multithumos_i3d.py`,
`charades_i3d_rgb.py` and `epic_kitchens_slowfast_verb.py` at cd0ca96, with the `_base_` files that they name."""

FEATURES_EVERY: dict[str, Any] = EVERY | {
    "out_channels": 512,
    "n_mha_win_size": 19,
    "max_seq_len": 2304,
    "use_abs_pe": False,
    "proj_pdrop": 0.0,
    "trunc_thresh": 0.5,
    "crop_ratio": (0.9, 1.0),
    "loss_normalizer": 100,
    "label_smoothing": 0.0,
    "sigma": 0.5,
    "multiclass": True,
    "lr": 1e-4,
    "amp": False,
}
