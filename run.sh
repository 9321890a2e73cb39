#!/usr/bin/env bash
# The stage driver of every recipe. `./run.sh --help` tells how; stages are programs in local/, recipes are egs/*/recipe.conf.
set -euo pipefail
here=$PWD
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$root"

first_stage=0
last_stage=12
stage_titles=(
    "corpus      synthesize, download or find the corpus"
    "manifests   corpus -> validated lhotse manifests"
    "features    fbank or spectrogram of every split, speed-perturbed copies included"
    "tokens      BPE model and tokens.txt from the training transcripts that each experiment knows"
    "teacher     train the recipe's own teacher, or check another one on the corpus"
    "embeddings  the teacher's embeddings: of some utterances, of all for regression"
    "quantizer   train the multi-codebook quantizer on them"
    "codes       codebook indexes of all training audio"
    "hypotheses  N-best texts of all training audio, of teachers that write"
    "train       train each student"
    "decode      decode the dev and test splits with each experiment"
    "results     table, pictures, training curves"
    "export      ONNX files for sherpa-onnx and a model folder of each student, verified"
)

usage() {
    cat <<END
usage: ./run.sh [options] [--section.field value ...]

Runs a recipe, stage by stage. With no option: the embedded mini recipe, all stages.
Every stage is free to run again: what is done is kept, and what was interrupted goes on where it
was (there is no option for that: the same command resumes).

options
  --recipe DIR        recipe to run (default egs/mini)
  --stage N           first stage (default $first_stage)
  --stop-stage N      last stage (default $last_stage)
  --exp NAME[,NAME]   experiments: files of <recipe>/conf without .yaml (default: all that the recipe names)
  --corpus-dir DIR    corpus on disk: a LibriSpeech tree or a folder of lhotse manifests
                      (default: <data-dir>/corpus, filled by stage 0); of egs/wsj the LDC's discs
  --musan yes|no      prepare MUSAN's noises for data.musan_probability, too (default: the recipe's)
  --musan-dir DIR     MUSAN on disk, to prepare (default: <data-dir>/corpus/musan, filled by stage 0)
  --train-splits LIST  --dev-splits LIST  --test-splits LIST  --unlabelled-splits LIST
                      names or patterns of the corpus's splits, separated by commas (default: the recipe's;
                      after stage 1 those that it prepared)
  --max-seconds S     leave longer utterances out of all splits (default: the recipe's, else 40); training
                      leaves out those longer than data.step_duration
  --text-normalization identity|nfc|nfkc  Unicode normalization of all transcripts, those of references too
                      (default: the recipe's, else identity)
  --speed-perturb yes|no  training splits at speeds 0.9 and 1.1, too (default: the recipe's)
  --features fbank|spectrogram  80 mel bins, or the 161 bins of a spectrogram (default: the recipe's, else fbank)
  --on-the-fly yes|no     store no features, extract them in training (default: the recipe's, else no)
  --vocab-size N      BPE tokens (default: the recipe's)
  --units UNITS       bpe, or char: tokens are the characters of the transcripts
                      (default: the recipe's, or bpe)
  --tokens-from MODEL take the tokens of this student (bpe.model, the folder of an experiment or a model,
                      or hf:OWNER/NAME), to fine-tune it with --training.init MODEL
  --data-dir DIR      prepared data (default data/<recipe>)
  --exp-dir DIR       experiments (default exp/<recipe>)
  --baseline NAME     experiment that stage 11 compares the others with (default: the recipe's, else baseline)
  --delay-reference NAME  experiment with full context that aligns the test sets, for the emission delays of
                      streaming students in stage 11, or none (default: the recipe's, else none)
  --variant NAME      experiments with other values beside the recipe's: in <exp-dir>/<experiment>-NAME
  --nj N              parallel processes of the preparation (default: all cores)
  --world-size N      training processes on this machine, one per GPU (default 1; without a GPU the recipe's)
  --strict            stop at the first invalid utterance instead of leaving it out
  --no-install        use the Python environment as it is
  --help              this text; --help-config lists every --section.field
Hyphens and underscores in option names are the same. Relative paths are those of the current folder.

recipes
$(for conf in egs/*/recipe.conf; do
        printf '  %-22s %s\n' "$(dirname "$conf")" "$(sed -n 's/^description="\(.*\)"$/\1/p' "$conf")"
    done)

stages
$(for n in "${!stage_titles[@]}"; do printf '  %2d  %s\n' "$n" "${stage_titles[$n]}"; done)

examples
  ./run.sh                                             the mini recipe, about 20 minutes on two cores
  ./run.sh --recipe egs/mini_librispeech --corpus-dir /corpora/mini
  ./run.sh --stage 9 --exp baseline --variant deeper --model.num_layers 8
END
}

fail() {  # problem, remedy
    printf 'run.sh: %s\n  remedy: %s\n' "$1" "$2" >&2
    exit 2
}

# ---- options -----------------------------------------------------------------------------------------------------------
recipe=egs/mini
stage=$first_stage
stop_stage=$last_stage
only_experiments=
corpus_dir=
musan_dir=
data_dir=
exp_dir=
option_baseline=
option_delay_reference=
variant=
# nproc takes a number of threads for one of cores.
cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || echo 2)
nj=$cores
world_size=
strict=
install=yes
split_options=()  # as they were given: programs take them in place of what was prepared
option_max_seconds=
option_text_normalization=
option_speed_perturb=
option_features=
option_on_the_fly=
option_musan=
option_vocab_size=
option_units=
tokens_from=
overrides=()
again=$0  # this command without its stages, for remedies
[[ $again = */* ]] || again="bash $again"

from_here() {  # a path as the user gave it -> as it is called from the project's folder
    case $1 in
        "" | /*) echo "$1" ;;
        *) if [ "$here" -ef "$root" ]; then echo "$1"; else echo "$here/$1"; fi ;;
    esac
}
model_from_here() {  # a file or folder, hf:FOLDER, or hf:OWNER/NAME
    case $1 in
        hf:*) if [ -e "$here/${1#hf:}" ]; then echo "hf:$(from_here "${1#hf:}")"; else echo "$1"; fi ;;
        *) from_here "$1" ;;
    esac
}
list_from_here() {  # [a, b], or without brackets: paths
    local path list=
    while read -r path; do
        [ -z "$path" ] || list+=${list:+, }$(from_here "$path")
    done < <(tr -d "[]\"'" <<<"$1" | tr , '\n')
    echo "[$list]"
}
list_options() {  # options of local/list_options.py, which needs nothing installed
    command -v python3 >/dev/null || fail "python3 is missing" "install Python 3.10 or newer"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$(python3 --version 2>&1) is too old" "put a Python >= 3.10 first on PATH"
    python3 local/list_options.py "$@"
}

while [ $# -gt 0 ]; do
    name=${1%%=*}
    case $1 in
        --*=*) set -- "$name" "${1#*=}" "${@:2}" ;;
    esac
    key=${name//_/-}
    case $key in
        --help | -h) usage; exit 0 ;;
        --help-config) list_options; exit 0 ;;
        --strict) strict=--strict; again+=" $key"; shift; continue ;;
        --no-install) install=; again+=" $key"; shift; continue ;;
        --*) [ $# -ge 2 ] || fail "$name needs a value" "./run.sh --help" ;;
        *) fail "unexpected argument '$1'" "options begin with --; see ./run.sh --help" ;;
    esac
    case $key in
        --stage | --stop-stage) ;;
        *) again+=" $(printf '%q %q' "$name" "$2")" ;;
    esac
    case $key in
        --recipe) recipe=${2%/}; [ ! -d "$here/$recipe" ] || recipe=$(from_here "$recipe") ;;
        --stage) stage=$2 ;;
        --stop-stage) stop_stage=$2 ;;
        --exp)
            [ -z "$only_experiments" ] || fail "--exp is given twice" "--exp NAME,NAME takes several"
            only_experiments=${2//,/ }
            [[ $only_experiments = *[!\ ]* ]] || fail "--exp names no experiment" "--exp NAME,NAME"
            again_named=$(printf '%s\n' $only_experiments | sort | uniq -d)
            [ -z "$again_named" ] || fail "--exp names $again_named twice" "name it once"
            ;;
        --corpus-dir) corpus_dir=$(from_here "$2") ;;
        --musan-dir) musan_dir=$(from_here "$2") ;;
        --musan) option_musan=$2 ;;
        --max-seconds) option_max_seconds=$2 ;;
        --text-normalization) option_text_normalization=$2 ;;
        --speed-perturb) option_speed_perturb=$2 ;;
        --features) option_features=$2 ;;
        --on-the-fly) option_on_the_fly=$2 ;;
        --vocab-size) option_vocab_size=$2 ;;
        --units) option_units=$2 ;;
        --tokens-from) tokens_from=$(model_from_here "$2") ;;
        --train-splits | --dev-splits | --test-splits | --unlabelled-splits | \
            --train-parts | --dev-parts | --test-parts | --unlabelled-parts)
            role=${key#--} role=${role%-*}
            [ "$key" = "--$role-splits" ] || echo "run.sh: $name is now --$role-splits" >&2
            split_options+=("--$role-splits" "${2//,/ }")
            ;;
        --data-dir) data_dir=$(from_here "$2") ;;
        --exp-dir) exp_dir=$(from_here "$2") ;;
        --baseline) option_baseline=$2 ;;
        --delay-reference) option_delay_reference=$2 ;;
        --variant) variant=$2 ;;
        --nj) nj=$2 ;;
        --world-size) world_size=$2 ;;
        --*.*)
            value=$2
            case $key=$2 in
                --distillation.*teacher=hf:* | --distillation.*teacher=mvqkd:*/* | --training.init=hf:*)
                    file=${2#*:}  # a folder, or a name elsewhere
                    [ ! -e "$here/${file%%\?*}" ] || value=${2%%:*}:$(from_here "$file")
                    ;;
                --export.upload=hf:*) ;;
                --data.replay=* | --data.extra-dev=*) value=$(list_from_here "$2") ;;
                --distillation.*targets=* | --export.upload=?* | --distillation.*quantizer.file=* | --distillation.quantizer=* | --training.init=*)
                    value=$(from_here "$2")
                    ;;
            esac
            overrides+=("${name//-/_}" "$value")
            overrides[-2]="--${overrides[-2]#__}"
            ;;
        *) fail "unknown option $name" "./run.sh --help lists the options, --help-config the configuration values" ;;
    esac
    shift 2
done

check_number() {  # option, its value, the least and the greatest
    [[ $2 =~ ^0*[0-9]{1,6}$ ]] && [ "$2" -ge "$3" ] && [ "$2" -le "$4" ] ||
        fail "--$1 takes a number from $3 to $4, not '$2'" "./run.sh --help"
}
check_number stage "$stage" $first_stage $last_stage
check_number stop-stage "$stop_stage" $first_stage $last_stage
check_number nj "$nj" 1 1000
check_number world-size "${world_size:-1}" 1 1000
check_number vocab-size "${option_vocab_size:-10}" 4 100000
[[ ${option_max_seconds:-1} =~ ^[0-9]{0,6}\.?[0-9]{1,6}$ && ${option_max_seconds:-1} = *[1-9]* ]] ||
    fail "--max-seconds takes a number above 0, not '$option_max_seconds'" "./run.sh --help"
nj=$((10#$nj))
[ "$stage" -le "$stop_stage" ] ||
    fail "--stage $stage comes after --stop-stage $stop_stage" "stages run in the order of ./run.sh --help"
for choice in speed-perturb:"$option_speed_perturb" on-the-fly:"$option_on_the_fly" musan:"$option_musan"; do
    [[ ${choice#*:} =~ ^(yes|no|)$ ]] || fail "--${choice%%:*} takes yes or no, not '${choice#*:}'" "./run.sh --help"
done
[[ $option_text_normalization =~ ^(identity|nfc|nfkc|)$ ]] ||
    fail "--text-normalization takes identity, nfc or nfkc, not '$option_text_normalization'" "./run.sh --help"
[[ $option_features =~ ^(fbank|spectrogram|)$ ]] ||
    fail "--features takes fbank or spectrogram, not '$option_features'" "./run.sh --help"
[ -z "$tokens_from" ] || [ -z "$option_vocab_size$option_units" ] ||
    fail "--tokens-from says what the tokens are" "leave --vocab-size and --units out"
[[ $option_units =~ ^(bpe|char|)$ ]] || fail "--units takes bpe or char, not '$option_units'" "./run.sh --help"
[[ $variant =~ ^[A-Za-z0-9_.-]*$ ]] || fail "--variant '$variant' cannot be used in a folder's name" "letters, digits, _ . -"
[ -f "$recipe/recipe.conf" ] || fail "$recipe has no recipe.conf" "--recipe takes one of: $(echo egs/*/)"
list_options --check "${overrides[@]}" || exit 2
export MVQKD_RUN=$again

# shellcheck source=egs/mini/recipe.conf
. "$recipe/recipe.conf"
name=$(basename "$recipe")
[ -z "$musan_dir" ] || musan=yes
musan=${option_musan:-$musan}
max_seconds=${option_max_seconds:-${max_seconds:-40}}
text_normalization=${option_text_normalization:-${text_normalization:-identity}}
speed_perturb=${option_speed_perturb:-$speed_perturb}
features=${option_features:-${features:-fbank}}
on_the_fly=${option_on_the_fly:-${on_the_fly:-no}}
vocab_size=${option_vocab_size:-${vocab_size:-500}}
units=${option_units:-${units:-bpe}}
baseline=${option_baseline:-${baseline:-}}
delay_reference=${option_delay_reference:-${delay_reference:-none}}
data_dir=${data_dir:-data/$name}
declare -A splits=()  # those to prepare, by role
for role in train dev test unlabelled; do
    named=${role}_splits old=${role}_parts
    [ -z "${!old:-}" ] || echo "run.sh: in $recipe/recipe.conf, $old is now $named" >&2
    splits[$role]=${!named:-${!old:-}}
done
for ((i = 0; i < ${#split_options[@]}; i += 2)); do
    role=${split_options[i]#--}
    splits[${role%-splits}]=${split_options[i + 1]}
done
exp_dir=${exp_dir:-exp/$name}
variant=${variant:+-$variant}
experiments=${only_experiments:-$experiments}
for experiment in $experiments; do
    [ -f "$recipe/conf/$experiment.yaml" ] ||
        fail "there is no experiment $recipe/conf/$experiment.yaml" \
            "--exp takes one of: $(cd "$recipe/conf" && echo *.yaml | sed 's/\.yaml//g')"
done
if [ -n "$corpus_dir" ] && [ ! -d "$corpus_dir" ]; then
    fail "the corpus directory $corpus_dir does not exist" "--corpus-dir takes a LibriSpeech tree or a folder of lhotse manifests"
fi
ldc_dir=
if [ "$corpus" = wsj ]; then  # stage 0 unpacks it to <data-dir>/corpus, which the others read
    ldc_dir=$corpus_dir corpus_dir=
fi

# ---- environment -------------------------------------------------------------------------------------------------------
if [ -n "$install" ]; then
    # shellcheck source=local/environment.sh
    . local/environment.sh "torchaudio,onnx${extras:+,$extras}"
fi

configs=()
for experiment in $experiments; do
    configs+=("$recipe/conf/$experiment.yaml")
done
learners=()  # lines: an experiment that has a teacher, and that teacher
lines=$(python local/list_teachers.py --config "${configs[@]}" "${overrides[@]}") || exit
[ -z "$lines" ] || mapfile -t learners <<<"$lines"

is_teacher() {  # of another experiment
    [[ " ${learners[*]#* } " = *" $1 "* ]]
}
runs() { [ "$stage" -le "$1" ] && [ "$1" -le "$stop_stage" ]; }
announce() {  # stage, and what it is about
    local title
    read -r -a title <<<"${stage_titles[$1]}"
    printf '\n== stage %d: %s%s\n' "$1" "${title[0]}" "${2:+ $2}"
}
show() {  # print a command as it can be pasted, then run it
    local word
    printf '  '
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word=${word@Q}
        printf ' %s' "$word"
    done
    printf '\n'
    run "$@"
}
run() {  # run a command that a signal to run.sh stops, too
    "$@" &
    child=$!
    wait_for_child || { status=$?; child=; return "$status"; }
    child=
}
wait_for_child() {
    local status=0
    wait "$child" || status=$?
    while [ -n "$stopped_by" ] && kill -0 "$child" 2>/dev/null; do
        status=0
        wait "$child" || status=$?
    done
    [ -z "$stopped_by" ] || leave "$stopped_by"
    return "$status"
}
stop() {  # signal: pass it on; a training writes a checkpoint first
    stopped_by=$1
    [ -n "$child" ] || leave "$1"
    kill -TERM "$child" 2>/dev/null || true
}
leave() {  # signal
    printf 'run.sh: stopped by SIG%s; the same command goes on from here\n' "$1" >&2
    exit $((128 + $(kill -l "$1")))
}
child= stopped_by=
trap 'stop TERM' TERM
trap 'stop INT' INT
trap 'stop HUP' HUP

# ---- stages ------------------------------------------------------------------------------------
if runs 0; then
    announce 0
    if [ -n "$corpus_dir" ]; then
        echo "   the corpus is $corpus_dir"
    elif [ "$corpus" = synthetic ]; then
        read -r -a options <<<"${corpus_options:-}"
        show python local/make_mini_corpus.py --out "$data_dir/corpus" --nj "$nj" "${options[@]}"
    elif [ "$corpus" = wsj ]; then
        show python local/unpack_wsj.py ${ldc_dir:+--corpus-dir "$ldc_dir"} --out "$data_dir/corpus" \
            --splits "${splits[train]} ${splits[dev]} ${splits[test]} ${splits[unlabelled]}" --nj "$nj"
    else
        show python local/download_corpus.py --corpus "$corpus" --out "$data_dir/corpus" \
            --splits "${splits[train]} ${splits[dev]} ${splits[test]} ${splits[unlabelled]}"
    fi
    if [ "$musan" = yes ] && [ -z "$musan_dir" ]; then
        show python local/download_corpus.py --corpus musan --out "$data_dir/corpus"
    fi
fi

if runs 1; then
    announce 1
    options=()
    [ "$musan" != yes ] || options+=(--musan-dir "${musan_dir:-$data_dir/corpus/musan}")
    [ "$text_normalization" = identity ] || options+=(--text-normalization "$text_normalization")
    [ "$here" -ef "$root" ] || options+=(--audio-root "$here")
    for role in train dev test unlabelled; do
        options+=("--$role-splits" "${splits[$role]}")
    done
    show python local/prepare_manifests.py --corpus-dir "${corpus_dir:-$data_dir/corpus}" \
        --prefix "$prefix" --max-seconds "$max_seconds" --data-dir "$data_dir" --nj "$nj" \
        "${options[@]}" $strict
fi

data_options=(--data-dir "$data_dir" "${split_options[@]}")
if [ "$stop_stage" -ge 2 ]; then
    python local/describe_data.py "${data_options[@]}" ${corpus_dir:+--corpus-dir "$corpus_dir"}
fi

if runs 2; then
    announce 2
    options=()
    [ "$speed_perturb" != yes ] || options+=(--speed-perturb)
    [ "$musan" != yes ] || options+=(--musan)
    [ "$features" = fbank ] || options+=(--features "$features")
    [ "$on_the_fly" != yes ] || options+=(--on-the-fly)
    show python local/compute_fbank.py "${data_options[@]}" --nj "$nj" "${options[@]}" $strict
fi

if runs 3; then
    announce 3
    show python local/prepare_lang.py "${data_options[@]}" --vocab-size "$vocab_size" --units "$units" $strict \
        ${tokens_from:+--tokens-from "$tokens_from"} \
        --config "${configs[@]}" "${overrides[@]}"
fi

# Small models gain nothing from a second thread, and much from a second process. Processes of one training wait for each
# other, which several trainings do not: those run side by side, in one process each.
side_by_side=1
if [ -z "$world_size" ] && [ "${cpu_processes:-1}" -gt 1 ] && [ "$stop_stage" -ge 4 ] &&
    python -c 'import torch; raise SystemExit(torch.cuda.is_available())'; then
    world_size=$((cpu_processes < cores ? cpu_processes : cores))
    students=0
    for experiment in $experiments; do
        is_teacher "$experiment" || students=$((students + 1))
    done
    [ "$students" -lt 2 ] || side_by_side=$world_size
fi
world_size=${world_size:-1}
readers=$((nj > world_size ? nj / world_size : 1))  # of audio, in each process
launcher=(python)
[ "$world_size" = 1 ] || launcher=(python local/torchrun.py --standalone --nproc-per-node "$world_size")

for_each_learner() {  # program and its options: run it for each experiment that has a teacher
    local experiment
    for experiment in $experiments; do
        [[ " ${learners[*]%% *} " = *" $experiment "* ]] || continue
        echo " $experiment"
        show "$@" --config "$recipe/conf/$experiment.yaml" --exp-root "$exp_dir" \
            "${data_options[@]}" "${overrides[@]}"
    done
}
of_experiment() {  # sets folder, values (of training) and decoding_values
    local i
    folder=$1$variant values=("${overrides[@]}") decoding_values=("${overrides[@]}")
    # A teacher of other experiments here keeps its file's values: those of the command line are
    # meant for its students, and would change their targets.
    is_teacher "$1" || return 0
    folder=$1 values=() decoding_values=()
    for ((i = 0; i < ${#overrides[@]}; i += 2)); do
        [[ ${overrides[i]} != --decoding.* && ${overrides[i]} != --export.* ]] ||
            decoding_values+=("${overrides[@]:i:2}")
    done
}

if runs 4 && [ ${#learners[@]} -gt 0 ]; then
    announce 4
    for_each_learner "${launcher[@]}" local/prepare_teacher.py
fi

if runs 5 && [ ${#learners[@]} -gt 0 ]; then
    announce 5
    for_each_learner "${launcher[@]}" local/extract_embeddings.py --num-workers "$readers"
fi

if runs 6 && [ ${#learners[@]} -gt 0 ]; then
    announce 6
    for_each_learner python local/train_quantizer.py
fi

if runs 7 && [ ${#learners[@]} -gt 0 ]; then
    announce 7
    for_each_learner "${launcher[@]}" local/dump_codes.py --num-workers "$readers"
fi

if runs 8 && [ ${#learners[@]} -gt 0 ]; then
    announce 8
    for_each_learner "${launcher[@]}" local/dump_hypotheses.py --num-workers "$readers"
fi

tokens=(${option_vocab_size:+--vocab-size "$option_vocab_size"})
if runs 9; then
    commands=()
    for experiment in $experiments; do
        of_experiment "$experiment"
        training=(local/train.py --config "$recipe/conf/$experiment.yaml"
            "${data_options[@]}" --exp-dir "$exp_dir/$folder" "${tokens[@]}" "${values[@]}")
        if [ "$side_by_side" = 1 ] || is_teacher "$experiment"; then  # students need it
            announce 9 "$folder"
            show "${launcher[@]}" "${training[@]}"
        else
            commands+=(: "$folder" python "${training[@]}")
        fi
    done
    if [ ${#commands[@]} -gt 0 ]; then
        announce 9 "experiments, $side_by_side at a time"
        show python local/side_by_side.py --jobs "$side_by_side" "${commands[@]}"
    fi
fi

if runs 10; then
    for experiment in $experiments; do
        of_experiment "$experiment"
        announce 10 "$folder"
        show python local/decode.py --exp-dir "$exp_dir/$folder" --data-dir "$data_dir" \
            "${tokens[@]}" "${decoding_values[@]}"
    done
fi

if runs 11; then
    announce 11
    options=(${baseline:+--baseline "$baseline"})
    [ "$delay_reference" = none ] || options+=(--delay-reference "$delay_reference" --data-dir "$data_dir")
    show python local/results.py --exp-dir "$exp_dir" "${options[@]}"
fi

if runs 12; then
    for experiment in $experiments; do
        of_experiment "$experiment"
        announce 12 "$folder"
        show python local/export.py --exp-dir "$exp_dir/$folder" --data-dir "$data_dir" \
            "${tokens[@]}" "${decoding_values[@]}"
    done
fi
