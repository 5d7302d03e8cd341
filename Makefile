# `make run` sets everything up and serves; `make test` runs every test; `make help` lists the rest.
# Nothing is built outside build/.  Python (models, API tests) lives in build/venv.
B       ?= build
CC      ?= cc
CLANG   ?= clang
OPT     ?= -O3
PYTHON  ?= python3
VERSION := $(shell cat VERSION)
WARN     = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
CFLAGS  += -std=c11 -D_GNU_SOURCE $(OPT) -g -fno-math-errno -fno-trapping-math $(WARN) -I. -MMD -MP $(SAN)
LDLIBS  += -lmicrohttpd -luv -lcjson -lpcre2-8 -lutf8proc -lpng16 -ljpeg -lwebp -Wl,--as-needed -lcurl -lpthread -lm
ifdef WERROR
WARN    += -Werror
endif
ifdef SANITIZE            # make test-unit SANITIZE=address,undefined   or   SANITIZE=thread
, := ,
SAN      = -fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=undefined
OPT      = -O1
override B := build/$(subst $(,),-,$(SANITIZE))
endif

# Quiet by default: one line a file.  V=1 shows the commands.
Q   = $(if $(V),,@)
say = $(if $(V),,@printf '  %-6s %s\n' $(1) $(2);)

SRC    := $(sort $(wildcard base/*.c kernels/*.c kernels/cpu/*.c engine/*.c engine/*/*.c api/*.c server/*.c))
LIBOBJ := $(patsubst %.c,$(B)/%.o,$(filter-out server/main.c,$(SRC)))
UNIT   := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/unit/test_*.c))
GOLDEN := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/golden/test_*.c))
KCHECK := $(patsubst %.c,$(B)/%.o,$(wildcard tests/kcheck/*.c))
FUZZ   := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/fuzz/fuzz_*.c))

# The only files that may use instructions above the baseline.  Their templates unroll into much code:
# full debugging information or sanitizers would take minutes to compile; kcheck guards their buffers.
ISA     = $(B)/kernels/cpu/isa_
FUZZISA = $(B)/fuzz/kernels/cpu/isa_
AVX2    = -mavx2 -mfma -mf16c
AVX512  = $(AVX2) -mavx512f -mavx512bw -mavx512vl -mavx512dq
$(ISA)%.o: SAN =
$(ISA)%.o: CFLAGS += -g1 -fno-var-tracking
$(ISA)scalar.o     $(FUZZISA)scalar.o:     CFLAGS += -ffp-contract=off
$(ISA)avx2.o       $(FUZZISA)avx2.o:       CFLAGS += $(AVX2)
$(ISA)avx512.o     $(FUZZISA)avx512.o:     CFLAGS += $(AVX512)
$(ISA)avx512vnni.o $(FUZZISA)avx512vnni.o: CFLAGS += $(AVX512) -mavx512vnni
$(B)/server/main.o $(B)/server/config.o: CFLAGS += -DDUETTO_VERSION='"$(VERSION)"'

# CUDA, over the objects above: `make cuda` by nvcc, `make cuda-emu` by the host's compiler over
# tests/cuemu, which has the device's language and API.  What is not there replaces what is in the
# library by being linked first.
CUDA_HOME ?= /usr/local/cuda
NVCC    ?= $(CUDA_HOME)/bin/nvcc
CUDA_CC  = -std=c++17 -O3 -I. -fmad=false -lineinfo -Xcompiler -fno-exceptions,-fno-threadsafe-statics \
           -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 \
           -gencode arch=compute_100,code=sm_100 -gencode arch=compute_80,code=compute_80
CUDA_LD  = -L$(CUDA_HOME)/lib64 -lcudart_static -lstdc++ -ldl -lrt
EMU_CXX  = $(CXX) -std=gnu++17 -g -O2 -march=native -ffp-contract=off -fno-exceptions -Itests/cuemu -I. -MMD -MP \
           -Wall -Wextra -Wno-unused-function -Wno-unknown-pragmas
CUDA_C   := kernels/backend.c $(sort $(wildcard kernels/cuda/*.c))
CUDA_CU  := $(sort $(wildcard kernels/cuda/*.cu))
CUDA_OBJ := $(CUDA_C:%.c=$(B)/cuda/%.o) $(CUDA_CU:%.cu=$(B)/cuda/%.o)
EMU_CU   = -fsanitize=alignment -fsanitize-undefined-trap-on-error $(SAN)
EMU_RT   := $(patsubst %.cpp,$(B)/cuda-emu/%.o,$(wildcard tests/cuemu/*.cpp))
EMU_TEST := $(patsubst %.c,$(B)/cuda-emu/%,$(wildcard tests/cuda/test_*.c))
DEVICE_GOLDEN := $(addprefix tests/golden/test_,llama diffusion blip bert control lora pipeline safety upscaler)
EMU_QUICK := $(addprefix $(B)/cuda-emu/tests/golden/test_,blip bert safety control diffusion llama upscaler) # in make test too
EMU_GOLDEN := $(addprefix $(B)/cuda-emu/,$(DEVICE_GOLDEN))
EMU_OBJ  := $(CUDA_C:%.c=$(B)/cuda-emu/%.o) $(CUDA_CU:%.cu=$(B)/cuda-emu/%.o) \
            $(EMU_RT)

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.PHONY: all help run test check deps models test-unit test-kernels test-cuda test-golden test-api test-train test-files fuzz \
        bench bench-peers lint tidy format format-check asan tsan valgrind docker docker-check install clean distclean

all: $(B)/duetto                      ## build the server: build/duetto
run: deps                             ## install what is needed, get the default models, serve
	$(Q)$(MAKE) --no-print-directory -j"$$(nproc)" all models
	$(Q)exec $(B)/duetto serve
test: deps                            ## run every test
	$(Q)$(MAKE) --no-print-directory -j2 all models build/venv/.done tests-built
	$(Q)$(PYTHON) tools/run_tests.py --build $(B)
check: test
deps:                                 ## install the Debian packages that build and tests need
	$(Q)tools/install-deps
models: build/venv/.done               ## put the default models into models/cache
	$(Q)build/venv/bin/python tools/get_models.py

.PHONY: tests-built
tests-built: $(UNIT) $(GOLDEN) $(B)/kcheck $(B)/kcheck_simde cuda-emu ptxvm-built
test-unit: $(UNIT)                    ## unit tests; T=name runs the files that match
	$(Q)$(PYTHON) tools/run_tests.py --build $(B) --suite unit $(if $(T),--match $(T))
test-kernels: $(B)/kcheck $(B)/kcheck_simde ## every kernel against the scalar one; T=name
	$(Q)$(B)/kcheck $(T)
	$(Q)$(B)/kcheck_simde $(T)
test-cuda: cuda-emu                   ## kernels and bugs planted for it, on the emulated GPU
	$(Q)$(PYTHON) tools/run_tests.py --build $(B) --suite cuda $(if $(T),--match $(T))
test-golden: $(GOLDEN)                ## models and tokenizers against reference values
	$(Q)$(PYTHON) tools/run_tests.py --build $(B) --suite golden $(if $(T),--match $(T))
test-api: all build/venv/.done         ## the server, through the openai client
	$(Q)$(PYTHON) tools/run_tests.py --build $(B) --suite api $(if $(T),--match $(T))
test-train:                           ## a few steps of every training script (installs PyTorch when asked)
	$(Q)tests/train/run $(TRAIN_PYTHON)
bench: all build/venv/.done            ## tokens/s, TTFT, HTTP requests/s on this machine
	$(Q)build/venv/bin/python tests/bench/bench.py --build $(B)
bench-peers: all build/venv/.done      ## beside llama.cpp and ik_llama.cpp, built from their Python packages
	$(Q)build/venv/bin/python tests/bench/peers.py --build $(B) $(if $(T),--only '$(T)')
fuzz: $(FUZZ)                         ## every parser, SECONDS=60 each, under ASan and UBSan
	$(Q)tools/fuzz $(B) $(or $(SECONDS),60)
asan:                                 ## unit, golden and API tests under ASan and UBSan
	$(Q)$(PYTHON) tools/run_tests.py --build build --suite asan
tsan:                                 ## the threaded unit tests under TSan
	$(Q)$(PYTHON) tools/run_tests.py --build build --suite tsan
valgrind: $(UNIT)                     ## unit tests under valgrind
	$(Q)for t in $(UNIT); do valgrind -q --error-exitcode=9 --leak-check=full $$t || exit 1; done
lint: format-check                    ## format, layers, sizes, banned calls, scripts, spelling
	$(Q)tools/check_layers.py
	$(Q)tools/check_complete.py
	$(Q)shellcheck tools/install-deps tools/fuzz tests/train/run tools/hooks/pre-commit .ci/run docker/*.sh
	$(Q)codespell .
	$(Q)git diff --check
# One file a run: in the second file of a run clang-tidy 14 takes every va_list for uninitialized.
tidy:                                 ## clang-tidy over the product (minutes)
	$(Q)clang-tidy --version >/dev/null
	$(Q)printf '%s\n' $(SRC) | xargs -P "$$(nproc)" -n 1 sh -c 'clang-tidy --quiet "$$@" -- -std=c11 \
	    -D_GNU_SOURCE -I. -DDUETTO_VERSION=\"\" $(AVX512) -mavx512vnni 2>/dev/null' x
FORMATTED = '*.c' '*.h' '*.cu' '*.cuh' '*.cpp'
format:                               ## rewrite the sources with clang-format
	$(Q)clang-format -i $$(git ls-files $(FORMATTED))
format-check:
	$(Q)clang-format --dry-run -Werror $$(git ls-files $(FORMATTED))
.PHONY: cuda cuda-emu gpu-check
cuda: $(B)/cuda/duetto $(B)/cuda/kcheck  ## the server for NVIDIA GPUs (needs nvcc): build/cuda/duetto
cuda-emu: $(B)/cuda-emu/libnccl.so.2 $(B)/cuda-emu/libcublasLt.so.13 $(B)/cuda-emu/duetto $(B)/cuda-emu/kcheck $(B)/cuda-emu/planted $(B)/cuda-emu/sample $(B)/cuda-emu/several $(EMU_TEST) $(EMU_QUICK) ## the same on an emulated GPU, for tests
.PHONY: cuda-gate cuda-report cuda-accesses cuda-faults cuda-golden cuda-sanitize cuda-mutants
cuda-golden: $(EMU_GOLDEN)             ## every family of models against its references, on the emulated GPU
	$(Q)$(PYTHON) tools/run_tests.py --build $(B) --suite cuda-golden $(if $(T),--match $(T))
cuda-sanitize: $(foreach s,cuda-tsan cuda-asan,$(B)/$s/kcheck $(B)/$s/sample) ## every kernel under ThreadSanitizer, AddressSanitizer and UBSan
	$(Q)$(PYTHON) tools/run_tests.py --build $(B) --suite cuda-sanitize $(if $(T),--match $(T))
cuda-faults: $(B)/cuda-emu/tests/cuda/test_faults ## every call of the emulated GPU fails once: no hang, and a clear error
	$(Q)FAULTS=all $<
cuda-gate: $(CUDA_CU:%.cu=$(B)/cuda/%.o) build/venv/.sass ## registers, spills, occupancy and machine code of the kernels
	$(Q)NVCC=$(NVCC) $(PYTHON) tools/cuda_gate.py --build $(B)
cuda-accesses: ptxvm-built            ## sectors and bank conflicts of the kernels, counted; ARGS=--write renews the table
	$(Q)$(PYTHON) tools/cuda_accesses.py --build $(B) $(ARGS)
cuda-mutants: ptxvm-built             ## each barrier of the kernels is taken out: is it told? (nvcc; 5 minutes of a core)
	$(Q)tools/cuda_mutants.py --build $(B) $(T)
cuda-report:                          ## rooflines on paper, into docs/CUDA.md
	$(Q)$(PYTHON) tools/cuda_report.py
gpu-check: $(if $(EMULATED),cuda-emu,cuda $(addprefix $(B)/cuda/,$(DEVICE_GOLDEN))) all build/venv/.done ## all that a machine with a GPU should run; EMULATED=1: a dry run without one
	$(Q)$(PYTHON) tools/gpu_check.py --build $(B) $(if $(EMULATED),--emulated)
docker:                               ## build the CPU image
	docker build -f docker/Dockerfile --build-arg VERSION=$(VERSION) -t duetto:$(VERSION) .
docker-check:                         ## run the image's stages in a fresh root, without an engine
	docker/check.sh
install: all                          ## PREFIX=/usr/local DESTDIR=
	install -D -m 755 $(B)/duetto $(DESTDIR)$(or $(PREFIX),/usr/local)/bin/duetto
	install -D -m 644 configs/default.json $(DESTDIR)/etc/duetto/duetto.json
clean:                                ## remove what was built, keep build/venv
	$(Q)find build -mindepth 1 -maxdepth 1 ! -name venv -exec rm -rf {} + 2>/dev/null || true
distclean:                            ## remove build/ and models/cache
	$(Q)rm -rf build models/cache
help:                                 ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(B)/duetto: $(B)/server/main.o $(B)/libduetto.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(SAN) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/libduetto.a: $(LIBOBJ)
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $^
$(B)/tests/unit/%: tests/unit/%.c $(B)/libduetto.a
	@mkdir -p $(@D)
	$(call say,TEST,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(B)/libduetto.a -lcmocka $(LDLIBS)
$(B)/tests/golden/%: tests/golden/%.c $(B)/libduetto.a
	@mkdir -p $(@D)
	$(call say,TEST,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(B)/libduetto.a -lcmocka $(LDLIBS)
$(B)/kcheck: $(KCHECK) $(B)/libduetto.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(SAN) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(B)/cuda/kernels/%.o: CFLAGS += -DDUETTO_CUDA -I$(CUDA_HOME)/include
$(B)/cuda/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CFLAGS) -c -o $@ $<
$(B)/cuda/%.o: %.cu
	@mkdir -p $(@D)
	$(call say,NVCC,$<)
	$(Q)$(NVCC) $(CUDA_CC) -Xptxas -v -MMD -MP -c -o $@ $< 2>$@.log || { cat $@.log; false; }
$(B)/cuda/duetto: $(B)/server/main.o $(CUDA_OBJ) $(B)/libduetto.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(CUDA_LD)
$(B)/cuda/kcheck: $(KCHECK) $(CUDA_OBJ) $(B)/libduetto.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(CUDA_LD)
$(B)/cuda-emu/kernels/%.o: CFLAGS += -DDUETTO_CUDA -Itests/cuemu
$(B)/cuda-emu/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CFLAGS) -c -o $@ $<
$(B)/cuda-emu/%.o: %.cu
	@mkdir -p $(@D)
	$(call say,EMU,$<)
	$(Q)$(EMU_CXX) $(EMU_CU) -x c++ -c -o $@ $<
$(B)/cuda-emu/%.o: %.cpp
	@mkdir -p $(@D)
	$(call say,EMU,$<)
	$(Q)$(EMU_CXX) -c -o $@ $<
$(B)/cuda-emu/duetto: $(B)/server/main.o $(EMU_OBJ) $(B)/libduetto.a
	$(call say,LINK,$@)
	$(Q)$(CXX) $(SAN) $(LDFLAGS) -rdynamic -o $@ $^ $(LDLIBS)
$(B)/cuda/tests/golden/%: tests/golden/%.c $(CUDA_OBJ) $(B)/libduetto.a
	@mkdir -p $(@D)
	$(call say,TEST,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(CUDA_OBJ) $(B)/libduetto.a -lcmocka $(LDLIBS) $(CUDA_LD)
$(B)/cuda-emu/tests/golden/%: tests/golden/%.c $(EMU_OBJ) $(B)/libduetto.a
	@mkdir -p $(@D)
	$(call say,TEST,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -rdynamic -o $@ $< $(EMU_OBJ) $(B)/libduetto.a -lcmocka $(LDLIBS) -lstdc++
$(B)/cuda-emu/tests/cuda/%: tests/cuda/%.c $(EMU_OBJ) $(B)/libduetto.a
	@mkdir -p $(@D)
	$(call say,TEST,$@)
	$(Q)$(CC) $(CFLAGS) -DDUETTO_CUDA -Itests/cuemu $(LDFLAGS) -rdynamic -Wl,-rpath,'$$ORIGIN/../..' -o $@ $< $(EMU_OBJ) $(B)/libduetto.a -lcmocka $(LDLIBS) -lstdc++
EMU_FEW := $(B)/cuda-emu/kernels/cuda/cuda_queue.o $(EMU_RT) $(B)/libduetto.a
$(B)/cuda-emu/planted: $(B)/cuda-emu/tests/cuemu/planted.o $(EMU_FEW)
	$(call say,LINK,$@)
	$(Q)$(CXX) $(SAN) $(LDFLAGS) -o $@ $^ -lpthread
$(B)/cuda-emu/libcublasLt.so.13: tests/cuemu/blas/cublasLt.cpp
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(EMU_CXX) -O3 -fPIC -shared -MF $@.d -MT $@ -o $@ $<
$(B)/cuda-emu/libnccl.so.2: tests/cuemu/nccl/nccl.cpp
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(EMU_CXX) -fPIC -shared -MF $@.d -MT $@ -o $@ $<
$(B)/cuda-emu/several: $(B)/cuda-emu/tests/cuemu/several.o $(B)/cuda-emu/tests/cuemu/nccl/nccl.o $(EMU_FEW)
	$(call say,LINK,$@)
	$(Q)$(CXX) $(SAN) $(LDFLAGS) -o $@ $^ -lpthread
$(B)/cuda-emu/sample: $(B)/cuda-emu/tests/cuemu/sample.o $(B)/cuda-emu/kernels/cuda/cuda_sample.o $(EMU_FEW)
	$(call say,LINK,$@)
	$(Q)$(CXX) $(SAN) $(LDFLAGS) -o $@ $^ -lpthread
$(B)/cuda-emu/kcheck: $(KCHECK) $(EMU_OBJ) $(B)/libduetto.a
	$(call say,LINK,$@)
	$(Q)$(CXX) $(SAN) $(LDFLAGS) -rdynamic -o $@ $^ $(LDLIBS)

# Kernels and their backend under sanitizers: a fiber of the emulation is a thread to ThreadSanitizer.  All else stays as it
# is, which is ten times as fast; but the pool that packs weights must be known to order its threads.
SAN_FLAGS_cuda-tsan = -fsanitize=thread
SAN_FLAGS_cuda-asan = -fsanitize=address,undefined -fno-sanitize-recover=undefined
define emu_sanitized
$(B)/$1/%.o: %.cu
	@mkdir -p $$(@D)
	$$(call say,EMU,"$1 $$<")
	$$(Q)$$(EMU_CXX) $$(SAN_FLAGS_$1) -fno-omit-frame-pointer -Wno-maybe-uninitialized -x c++ -c -o $$@ $$<
$(B)/$1/kernels/%.o: CFLAGS += -DDUETTO_CUDA -Itests/cuemu
$(B)/$1/%.o: %.c
	@mkdir -p $$(@D)
	$$(call say,CC,"$1 $$<")
	$$(Q)$$(CC) $$(CFLAGS) $$(SAN_FLAGS_$1) -fno-omit-frame-pointer -c -o $$@ $$<
$(B)/$1/kcheck: $(KCHECK) $(patsubst %.c,$(B)/$1/%.o,$(CUDA_C) kernels/cpu/pool.c) $(CUDA_CU:%.cu=$(B)/$1/%.o) \
    $(EMU_RT) $(B)/libduetto.a
	$$(call say,LINK,$$@)
	$$(Q)$$(CXX) $$(SAN_FLAGS_$1) $$(LDFLAGS) -rdynamic -o $$@ $$^ $$(LDLIBS)
$(B)/$1/sample: $(B)/$1/tests/cuemu/sample.o $(B)/$1/kernels/cuda/cuda_sample.o $(EMU_FEW)
	$$(call say,LINK,$$@)
	$$(Q)$$(CXX) $$(SAN_FLAGS_$1) $$(LDFLAGS) -o $$@ $$^ -lpthread
endef
$(foreach s,cuda-tsan cuda-asan,$(eval $(call emu_sanitized,$s)))

# The kernels as nvcc compiles them, executed on the CPU (tests/ptxvm): the emulation's launches go to the
# PTX of the same .cu file.
PTXVMC  := $(filter-out tests/ptxvm/test_%,$(wildcard tests/ptxvm/*.c))
PTXVM   := $(PTXVMC:%.c=$(B)/%.o)
PTXVMT  := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/ptxvm/test_*.c))
PTX     := $(patsubst %.cu,$(B)/ptxvm/%.ptx,$(CUDA_CU) $(wildcard tests/ptxvm/*.cu))
PTXFLAGS = -std=c++17 -O3 -I. -fmad=false -lineinfo -ptx -MD -MT $@ -MF $@.d -o $@
PTX_ARCHS := 90
PTX_NEWER := $(foreach a,$(PTX_ARCHS),$(CUDA_CU:%.cu=$(B)/ptxvm/sm_$a/%.ptx))
HAVE_NVCC := $(wildcard $(NVCC))
.PHONY: ptxvm ptxvm-built ptxvm-newer
ptxvm: ptxvm-built                    ## the kernels' PTX against the scalar law, on a virtual machine
	$(Q)$(PYTHON) tools/run_tests.py --build $(B) --suite ptxvm
ptxvm-newer: ptxvm-built $(PTX_NEWER)  ## the same with the PTX of sm_90
	$(Q)$(PYTHON) tools/run_tests.py --build $(B) --suite ptxvm-newer
ptxvm-built: $(PTXVMT) $(if $(HAVE_NVCC),$(PTX) $(B)/cuda-emu/libcublasLt.so.13 $(B)/ptxvm/kcheck $(B)/ptxvm/sample)
$(PTXVMT): $(B)/tests/ptxvm/%: tests/ptxvm/%.c $(PTXVM) $(B)/libduetto.a
	$(call say,TEST,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(PTXVM) $(B)/libduetto.a -lcmocka $(LDLIBS)
$(B)/ptxvm/%.ptx: %.cu
	@mkdir -p $(@D)
	$(call say,PTX,$<)
	$(Q)$(NVCC) $(PTXFLAGS) -arch=compute_80 $<
define ptx_of_arch
$(B)/ptxvm/sm_$1/%.ptx: %.cu
	@mkdir -p $$(@D)
	$$(call say,PTX $1,$$<)
	$$(Q)$$(NVCC) $$(PTXFLAGS) -arch=compute_$1 $$<
endef
$(foreach a,$(PTX_ARCHS),$(eval $(call ptx_of_arch,$a)))
$(B)/ptxvm/%.o: %.cpp
	@mkdir -p $(@D)
	$(call say,EMU,$<)
	$(Q)$(EMU_CXX) -c -o $@ $<
PTXRUN  := $(B)/ptxvm/tests/ptxvm/grid.o $(PTXVM) $(B)/libduetto.a
$(B)/ptxvm/kcheck: $(KCHECK) $(EMU_OBJ) $(PTXRUN)
	$(call say,LINK,$@)
	$(Q)$(CXX) $(SAN) $(LDFLAGS) -rdynamic -o $@ $^ $(LDLIBS)
$(B)/ptxvm/sample: $(B)/cuda-emu/tests/cuemu/sample.o $(B)/cuda-emu/kernels/cuda/cuda_sample.o \
                   $(filter-out %.a,$(EMU_FEW)) $(PTXRUN)
	$(call say,LINK,$@)
	$(Q)$(CXX) $(SAN) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# The AVX-512 levels on any machine: the same sources over Debian's SIMD Everywhere headers.
SIMDE = $(patsubst %.c,$(B)/simde/%.o,$(wildcard base/*.c kernels/*.c kernels/cpu/*.c tests/kcheck/*.c))
$(B)/kcheck_simde: $(SIMDE)
	$(call say,LINK,$@)
	$(Q)$(CC) $(SAN) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/simde/kernels/cpu/isa_%.o:        CFLAGS += $(AVX2) -w -g1 -fno-var-tracking
$(B)/simde/kernels/cpu/isa_scalar.o:   CFLAGS += -ffp-contract=off
$(B)/simde/%.o: %.c
	@mkdir -p $(@D)
	$(call say,SIMDE,$<)
	$(Q)$(CC) $(CFLAGS) -O2 -DDUETTO_SIMDE -c -o $@ $<

# Fuzzers: what they reach is built by clang with coverage, once for all of them.
FUZZOBJ = $(patsubst %.c,$(B)/fuzz/%.o,$(filter-out server/%,$(SRC)) $(PTXVMC))
$(B)/fuzz/% $(B)/tests/fuzz/%: OPT = -O1
$(B)/fuzz/% $(B)/tests/fuzz/%: SAN = -fsanitize=fuzzer-no-link,address,undefined \
    -fno-sanitize-recover=undefined
$(FUZZISA)%.o: SAN =
$(B)/fuzz/%.o: %.c
	@mkdir -p $(@D)
	$(call say,FUZZ,$<)
	$(Q)$(CLANG) $(CFLAGS) -c -o $@ $<
$(B)/fuzz/libduetto.a: $(FUZZOBJ)
	$(Q)rm -f $@ && ar rcs $@ $^
$(B)/tests/fuzz/%: tests/fuzz/%.c $(B)/fuzz/libduetto.a
	@mkdir -p $(@D)
	$(call say,FUZZ,$@)
	$(Q)$(CLANG) $(CFLAGS) -fsanitize=fuzzer -o $@ $< $(B)/fuzz/libduetto.a $(LDLIBS)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CFLAGS) -c -o $@ $<

# One environment for models, API tests and tools; made again when the list changes.
build/venv/.done: tests/api/requirements.txt
	$(call say,VENV,build/venv)
	$(Q)$(PYTHON) -m venv build/venv
	$(Q)build/venv/bin/pip install -q --disable-pip-version-check -r $<
	$(Q)touch $@
build/venv/.sass: build/venv/.done
	$(call say,VENV,cuobjdump and nvdisasm)
	$(Q)build/venv/bin/pip install -q --disable-pip-version-check nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
	$(Q)touch $@

-include $(shell find $(B) -name '*.d' 2>/dev/null)
