// Checks of the emulator: kernels with the mistakes that it is there to find, each in a process of its own, which must fail.
#include "checks.hpp"
#include <sys/wait.h>

// A sum over the block, right but for what `mistake` leaves out.
enum Mistake { NOTHING, NO_BARRIER, NO_SECOND_BARRIER, NO_WARP_BARRIER, SHARED_READ_BEFORE_WRITTEN, DIVERGED, ENDED, OUT_OF_BOUNDS, BAND, DYNAMIC_OUT_OF_BOUNDS, WRITES_INPUT, BLOCKS_DEPEND, NO_WAIT, WARP_DIVERGED };

void kernel(const int* in, int* out, int mistake)
{
    SHARED(int, values, 256);
    DYNAMIC_SHARED(int, more);
    const int thread = threadIdx.x, n = blockDim.x;
    if (mistake == ENDED && thread == 3) return;
    values[thread] = in[thread];
    if (mistake == DIVERGED && thread < 32) {
        __syncthreads();
    } else if (mistake != NO_BARRIER) {
        __syncthreads();
    }
    int sum = values[(thread + 1) % n] + values[(thread + n - 1) % n];
    if (mistake == SHARED_READ_BEFORE_WRITTEN) sum += more[thread];
    if (mistake != NO_SECOND_BARRIER) __syncthreads();
    values[thread] = sum;
    if (mistake != NO_WARP_BARRIER) __syncwarp();
    sum = values[thread ^ 1];
    if (mistake == WARP_DIVERGED && thread == 5) return;
    sum += __shfl_xor_sync(0xffffffffu, sum, 3);
    __syncthreads();
    copy_async(address_of(more + 4 * thread), in + 4 * (thread % 8), true);
    copy_commit();
    if (mistake != NO_WAIT) copy_wait<0>();
    sum += more[4 * thread];
    if (mistake == DYNAMIC_OUT_OF_BOUNDS) more[4 * n] = 1;
    if (mistake == WRITES_INPUT) const_cast<int*>(in)[thread] = 1;
    if (mistake == OUT_OF_BOUNDS) sum += in[n];
    if (mistake == BAND && thread == 0) out[2 * n] = 1;
    if (mistake == BLOCKS_DEPEND) sum = blockIdx.x == 0 ? 1 : out[0];
    out[blockIdx.x * n + thread] = sum;
}

int run(int mistake)
{
    const int n = 64;
    std::vector<int> numbers(n);
    for (int i = 0; i < n; ++i) numbers[i] = i * i;
    auto in = copied(numbers);
    // The second ends off a multiple of 16 bytes: a band of known bytes lies between it and the inaccessible page.
    Buffer<int> out(2 * n), odd(2 * n, 1);
    Buffer<int>& to = mistake == BAND ? odd : out;
    in_all_orders("mistake " + std::to_string(mistake), {output(to)}, [&] { launch(2, n, 16 * n, kernel, in->get(), to.get(), mistake); });
    for (int i = 0; i < 2 * n; ++i) {
        const auto sum = [&](int thread) { return numbers[((thread ^ 1) + 1) % n] + numbers[((thread ^ 1) + n - 1) % n]; };
        const int thread = i % n;
        if (to[i] != sum(thread) + sum(thread ^ 3) + numbers[4 * (thread % 8)]) ++failures;
    }
    return finish();
}

int main()
{
    bool good = true;
    for (int mistake = NOTHING; mistake <= WARP_DIVERGED; ++mistake) {
        std::fflush(stdout);
        const pid_t child = fork();
        if (child == 0) {
            // What fails in there is no failure out here.
            if (std::freopen("/dev/null", "w", stdout) == nullptr) std::_Exit(3);
            std::_Exit(run(mistake));
        }
        int status = 0;
        waitpid(child, &status, 0);
        const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        const bool right = code == (mistake == NOTHING ? 0 : 1);
        good = good && right;
        std::printf("%s emulator: %s %d\n", right ? "ok    " : "FAILED", mistake == NOTHING ? "a kernel without mistakes passes," : "found mistake", mistake);
    }
    return good ? 0 : 1;
}
