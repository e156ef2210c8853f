#!/usr/bin/env bash
# The main job on data that it makes itself: generate videos, train end to end, evaluate, localize a held-out video.
# Results lie in quickstart_run/. Arguments override the recipe, for example training.epochs=5.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# More threads gain little on so small a model, and the number of threads decides the last digits.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
run=quickstart_run
rm -rf "$run"
mkdir "$run"
re2tal make_demo_data "$run/data"
re2tal train --recipe quickstart --output "$run/training" \
    data.annotations="$run/data/annotations.json" data.videos="$run/data/videos" \
    data.cache="$run/cache" "$@"
re2tal predict --model "$run/training/last" --output "$run/predictions" \
    "$run"/data/videos/testing_*.mp4
echo "The timeline picture: $(ls "$run"/predictions/*.png)"
re2tal evaluate --model "$run/training/last" --annotations "$run/data/annotations.json" \
    --videos "$run/data/videos" --detections "$run/detections.json"
