// Causal attention in bf16 by tensor cores, for heads of 64 and 128 elements: the results of attention.cu, in the manner of FlashAttention-2
// (Dao 2023, arXiv 2307.08691). The head of attention.cu has the formulas.
//
// Four warps share a block; each owns M times 16 rows (of queries, or of keys in the gradient of keys and values) and multiplies them with tiles of
// the other side that all warps read from shared memory. Scores stay in the registers in which the tensor cores leave them: laid out so, they are
// already the left operand of the next product. The sums of products are f32; weights and the gradients of scores are rounded to bf16.
//
// Rows in shared memory are D elements without padding; the 16 bytes with index i of row r lie at i ^ (r % 8), so that eight rows of one column,
// which ldmatrix reads together, lie in all banks.
//
// What is asked of the arguments beyond attention.cu: pointers are multiples of 16 bytes, strides of 8 elements; scale is positive.

#if defined(FTREPL_EMULATED) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

struct AttentionSizes {
    int tokens, heads, kv_heads, q_stride, k_stride, v_stride, o_stride;
    float scale, softcap;
};

static constexpr int THREADS = 128;
// An index that no key reaches.
static constexpr int NEVER = 0x7fffffff;

// Where a lane's row begins for the two ways in which operands are read; the way the 16 bytes are exchanged within it.
template <int D> struct Lane {
    // Left operand, and transposed right operand: rows are lane % 16, the second 8 columns are for the lanes from 16 on.
    unsigned left, left_swap;
    // Right operand as it lies: rows are lane % 8 (8 more from lane 16 on), columns change every 8 lanes.
    unsigned right, right_swap;
    __device__ __forceinline__ explicit Lane(unsigned lane)
        : left(lane % 16 * (2 * D)), left_swap((lane / 16 ^ lane % 8) * 16), right((lane / 16 * 8 + lane % 8) * (2 * D)),
          right_swap((lane / 8 % 2 ^ lane % 8) * 16)
    {
    }
};

// The lane's address in the 16 by 16 elements at (row16, column16) of a tile.
template <int D> __device__ __forceinline__ shared_address place(shared_address tile, unsigned row, unsigned swap, int row16, int column16)
{
    const unsigned column = column16 * 32;
    // The exchange concerns the lowest three bits of the index alone.
    return tile + row + row16 * (32 * D) + (column & ~127u) + (swap ^ (column & 127u));
}

// Starts the copy of `count` rows from `first` on; zeros beyond the tokens, of which nothing is read.
template <int D, int count> __device__ __forceinline__ void copy_rows(shared_address tile, const bf16* from, int stride, int first, int tokens)
{
    constexpr int per_row = D / 8, rows = THREADS / per_row;
    static_assert(count % rows == 0 && rows % 8 == 0, "every thread copies as much, to the same place within its rows");
    const int row = threadIdx.x / per_row, chunk = threadIdx.x % per_row, left = tokens - first - row;
    from += static_cast<long long>(first + row) * stride + chunk * 8;
    tile += row * (2 * D) + (chunk ^ row % 8) * 16;
#pragma unroll
    for (int i = 0; i < count / rows; ++i) copy_async(tile + i * (rows * 2 * D), from + static_cast<long long>(i * rows) * stride, i * rows < left);
}

template <int M, int N> __device__ __forceinline__ void clear(float (&sums)[M][N][4])
{
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[m][n][i] = 0.0f;
        }
    }
}

// scores [16 M, 8 N] += mine others^T, for the warp's rows of `mine`.
template <int D, int M, int N>
__device__ __forceinline__ void multiply(float (&scores)[M][N][4], shared_address mine, shared_address others, const Lane<D>& lane)
{
    // Kept from one tile to the next, the addresses would take a dozen registers.
    const unsigned left_swap = forget(lane.left_swap), right_swap = forget(lane.right_swap);
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
        unsigned left[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) load_matrices(left[m], place<D>(mine, lane.left, left_swap, m, k));
#pragma unroll
        for (int n = 0; n < N / 2; ++n) {
            unsigned right[4];
            load_matrices(right, place<D>(others, lane.right, right_swap, n, k));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                multiply_add(scores[m][2 * n], left[m], right[0], right[1]);
                multiply_add(scores[m][2 * n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

// Scores in bf16, as a left operand.
template <int M, int N> struct Weights {
    unsigned at[M][N / 2][4];
    __device__ __forceinline__ void take(const float (&scores)[M][N][4])
    {
#pragma unroll
        for (int m = 0; m < M; ++m) {
#pragma unroll
            for (int k = 0; k < N / 2; ++k) {
                at[m][k][0] = pack(scores[m][2 * k][0], scores[m][2 * k][1]);
                at[m][k][1] = pack(scores[m][2 * k][2], scores[m][2 * k][3]);
                at[m][k][2] = pack(scores[m][2 * k + 1][0], scores[m][2 * k + 1][1]);
                at[m][k][3] = pack(scores[m][2 * k + 1][2], scores[m][2 * k + 1][3]);
            }
        }
    }
};

// sums [16 M, D] += weights [16 M, 8 N] others [8 N, D].
template <int D, int M, int N>
__device__ __forceinline__ void accumulate(float (&sums)[M][D / 8][4], const Weights<M, N>& weights, shared_address others, const Lane<D>& lane)
{
    const unsigned swap = forget(lane.left_swap);
#pragma unroll
    for (int k = 0; k < N / 2; ++k) {
#pragma unroll
        for (int n = 0; n < D / 16; ++n) {
            unsigned right[4];
            load_matrices_transposed(right, place<D>(others, lane.left, swap, k, n));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                multiply_add(sums[m][2 * n], weights.at[m][k], right[0], right[1]);
                multiply_add(sums[m][2 * n + 1], weights.at[m][k], right[2], right[3]);
            }
        }
    }
}

// Writes the warp's rows, times a factor a row, by way of its own rows of a tile that nobody reads any more: 16 bytes at a time to memory.
template <int D, int M>
__device__ __forceinline__ void store_rows(const float (&sums)[M][D / 8][4], const float (&factors)[M][2], shared_address mine, bf16* to, int stride, int first, int tokens)
{
    const int lane = threadIdx.x % 32;
    // The other lanes may still be reading.
    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = m * 16 + half * 8 + lane / 4;
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                store_shared(mine + row * (2 * D) + (n ^ row % 8) * 16 + lane % 4 * 4,
                             pack(sums[m][n][2 * half] * factors[m][half], sums[m][n][2 * half + 1] * factors[m][half]));
            }
        }
    }
    __syncwarp();
    constexpr int per_row = D / 8;
    const int chunk = lane % per_row;
#pragma unroll
    for (int i = 0; i < 16 * M * per_row / 32; ++i) {
        const int row = lane / per_row + i * (32 / per_row);
        const uint4 x = load_shared(mine + row * (2 * D) + (chunk ^ row % 8) * 16);
        if (first + row < tokens) *reinterpret_cast<uint4*>(to + static_cast<long long>(first + row) * stride + chunk * 8) = x;
    }
}

// Puts `hidden` where a query does not see a key; `query` and `key` are those of the lane's first score, `firsts` begins at that query.
template <int M, int N> __device__ __forceinline__ void hide(float (&scores)[M][N][4], float hidden, const int* firsts, int query, int key)
{
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = m * 16 + half * 8, from = firsts[row];
#pragma unroll
            for (int n = 0; n < N; ++n) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int column = key + n * 8 + i;
                    if (column > query + row || column < from) scores[m][n][2 * half + i] = hidden;
                }
            }
        }
    }
}

// The reduction over the four lanes that hold a row.
__device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// ---- forward

// M: rows of 16 a warp; N: keys of a tile, in eights.
template <int D> struct Forward {
    static constexpr int M = 2, N = 8, rows = 64 * M, tile = 8 * N;
};

// launch: grid (ceil(tokens / 128), heads), 128 threads.
// shared: 512 * D bytes (32 KiB for 64, 64 KiB for 128): queries [128, D], keys [64, D], values [64, D].
template <int D>
__device__ __forceinline__ void attention_forward(const bf16* q, const bf16* k, const bf16* v, bf16* o, float* lse, const int* first, const AttentionSizes& z)
{
    constexpr int M = Forward<D>::M, N = Forward<D>::N, rows = Forward<D>::rows, tile_rows = Forward<D>::tile;
    DYNAMIC_SHARED(unsigned char, shared);
    SHARED(int, firsts, rows);
    const shared_address queries = address_of(shared), keys = queries + rows * D * 2, values = keys + tile_rows * D * 2;
    const int head = blockIdx.y, kv_head = head / (z.heads / z.kv_heads), warp = threadIdx.x / 32;
    // The blocks that have most to do begin first.
    const int block = (gridDim.x - 1 - blockIdx.x) * rows, block_last = min(block + rows, z.tokens) - 1;
    const int own = block + warp * 16 * M;
    const Lane<D> lane(threadIdx.x % 32);
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
    const shared_address mine = queries + warp * (16 * M * D * 2);
    k += kv_head * D;
    v += kv_head * D;

    const int begin = first[block];
    copy_rows<D, rows>(queries, q + head * D, z.q_stride, block, z.tokens);
    copy_rows<D, tile_rows>(keys, k, z.k_stride, begin, z.tokens);
    copy_commit();

    float sums[M][D / 8][4], max[M][2], total[M][2];
    clear(sums);
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            max[m][half] = LOWEST;
            total[m][half] = 0.0f;
        }
    }
    static_assert(rows == THREADS, "a row is a thread's");
    firsts[threadIdx.x] = block + static_cast<int>(threadIdx.x) < z.tokens ? first[block + threadIdx.x] : NEVER;
    const int* const own_firsts = firsts + warp * 16 * M;
    // Scores are kept as products; with a soft cap, bent and in powers of two.
    const float to_powers = z.softcap > 0.0f ? 1.0f : z.scale * LOG2_E;

    for (int tile = begin; tile <= block_last; tile += tile_rows) {
        copy_wait<0>();
        __syncthreads();
        copy_rows<D, tile_rows>(values, v, z.v_stride, tile, z.tokens);
        copy_commit();
        // The warp's first query sees the earliest key of all, its last query the fewest of the early ones.
        const bool seen = tile < own + 16 * M && tile + tile_rows > own_firsts[0];
        Weights<M, N> weights;
        if (seen) {
            float scores[M][N][4];
            clear(scores);
            multiply<D, M, N>(scores, mine, keys, lane);
            if (z.softcap > 0.0f) {
                const float inner = z.scale / z.softcap, outer = z.softcap * LOG2_E;
#pragma unroll
                for (int m = 0; m < M; ++m) {
#pragma unroll
                    for (int n = 0; n < N; ++n) {
#pragma unroll
                        for (int i = 0; i < 4; ++i) scores[m][n][i] = outer * tanh_fast(scores[m][n][i] * inner);
                    }
                }
            }
            if (tile + tile_rows - 1 > own || tile < own_firsts[16 * M - 1]) {
                hide<M, N>(scores, -INFINITE, own_firsts + row, own + row, tile + column);
            }
            float shrink[M][2];
            bool grown = false;
#pragma unroll
            for (int m = 0; m < M; ++m) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float highest = max[m][half];
#pragma unroll
                    for (int n = 0; n < N; ++n) highest = fmaxf(highest, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
                    highest = quad_max(highest);
                    grown = grown || highest > max[m][half];
                    shrink[m][half] = exp2_fast((max[m][half] - highest) * to_powers);
                    max[m][half] = highest;
                    const float minus = -highest * to_powers;
                    float sum = 0.0f;
#pragma unroll
                    for (int n = 0; n < N; ++n) {
#pragma unroll
                        for (int i = 2 * half; i < 2 * half + 2; ++i) {
                            scores[m][n][i] = exp2_fast(fmaf(scores[m][n][i], to_powers, minus));
                            sum += scores[m][n][i];
                        }
                    }
                    total[m][half] = total[m][half] * shrink[m][half] + sum;
                }
            }
            // Past the first tiles most maxima stay: a multiplication of all sums by one is left out.
            if (__any_sync(0xffffffffu, grown)) {
#pragma unroll
                for (int m = 0; m < M; ++m) {
#pragma unroll
                    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
                        for (int i = 0; i < 4; ++i) sums[m][n][i] *= shrink[m][i / 2];
                    }
                }
            }
            weights.take(scores);
        }
        copy_wait<0>();
        __syncthreads();
        if (tile + tile_rows <= block_last) copy_rows<D, tile_rows>(keys, k, z.k_stride, tile + tile_rows, z.tokens);
        copy_commit();
        if (seen) accumulate<D, M, N>(sums, weights, values, lane);
    }

#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int query = own + m * 16 + half * 8 + row;
            const float sum = quad_sum(total[m][half]);
            total[m][half] = 1.0f / sum;
            if (column == 0 && query < z.tokens) {
                lse[static_cast<long long>(head) * z.tokens + query] = (max[m][half] * to_powers + log2f(sum)) * LN_2;
            }
        }
    }
    store_rows<D, M>(sums, total, mine, o + head * D, z.o_stride, own, z.tokens);
}

// ---- backward

// The weight of a product of query and key, and what the cap multiplies its gradient by. `log_sum` is in powers of two.
template <bool CAPPED> __device__ __forceinline__ float weight(float product, float log_sum, const AttentionSizes& z, float& slope)
{
    if constexpr (CAPPED) {
        const float bent = tanh_fast(product * (z.scale / z.softcap));
        slope = 1.0f - bent * bent;
        // What is hidden is minus infinity, which the cap would bend to a number.
        return product == -INFINITE ? 0.0f : exp2_fast(fmaf(bent, z.softcap * LOG2_E, -log_sum));
    } else {
        slope = 1.0f;
        return exp2_fast(fmaf(product, z.scale * LOG2_E, -log_sum));
    }
}

// Puts weights in the place of products, times what the cap multiplies their gradients by. `log_sums` begins at the lane's row.
template <bool CAPPED, int M, int N>
__device__ __forceinline__ void weigh_rows(float (&scores)[M][N][4], const float* log_sums, const AttentionSizes& z)
{
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float log_sum = log_sums[m * 16 + half * 8];
#pragma unroll
            for (int n = 0; n < N; ++n) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    float slope;
                    const float p = weight<CAPPED>(scores[m][n][i], log_sum, z, slope);
                    scores[m][n][i] = p * slope;
                }
            }
        }
    }
}

// The same where queries are columns; the weights themselves are left operands. `log_sums` begins at the lane's column.
template <bool CAPPED, int M, int N>
__device__ __forceinline__ void weigh_columns(float (&scores)[M][N][4], Weights<M, N>& weights, const float* log_sums, const AttentionSizes& z)
{
#pragma unroll
    for (int n = 0; n < N; ++n) {
        const float2 log_sum = *reinterpret_cast<const float2*>(log_sums + n * 8);
#pragma unroll
        for (int m = 0; m < M; ++m) {
            float p[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float slope;
                p[i] = weight<CAPPED>(scores[m][n][i], i % 2 == 0 ? log_sum.x : log_sum.y, z, slope);
                scores[m][n][i] = p[i] * slope;
            }
            weights.at[m][n / 2][n % 2 * 2] = pack(p[0], p[1]);
            weights.at[m][n / 2][n % 2 * 2 + 1] = pack(p[2], p[3]);
        }
    }
}

// Puts minus infinity where a query does not see a key: its weight will be zero. `firsts` begins at the lane's column.
template <int M, int N> __device__ __forceinline__ void hide_columns(float (&scores)[M][N][4], const int* firsts, int query, int key)
{
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int column = n * 8 + i % 2, from = firsts[column];
#pragma unroll
            for (int m = 0; m < M; ++m) {
                const int row = key + m * 16 + i / 2 * 8;
                if (row > query + column || row < from) scores[m][n][i] = -INFINITE;
            }
        }
    }
}

template <int D> struct Queries {
    static constexpr int M = 2, N = 4, rows = 64 * M, tile = 8 * N;
};

// launch: grid (ceil(tokens / 128), heads), 128 threads.
// shared: 48 KiB for 64, 96 KiB for 128: queries and gradients [128, D], two tiles of keys and of values [32, D].
template <int D>
__device__ __forceinline__ void attention_backward_queries(const bf16* q, const bf16* k, const bf16* v, const bf16* go, const float* lse, const float* delta,
                                                           const int* first, bf16* dq, int dq_stride, const AttentionSizes& z)
{
    constexpr int M = Queries<D>::M, N = Queries<D>::N, rows = Queries<D>::rows, tile_rows = Queries<D>::tile;
    constexpr unsigned tile_bytes = tile_rows * D * 2;
    DYNAMIC_SHARED(unsigned char, shared);
    SHARED(float, log_sums, rows);
    SHARED(float, deltas, rows);
    SHARED(int, firsts, rows);
    const shared_address queries = address_of(shared), gradients = queries + rows * D * 2;
    // Of each stage: keys, then values.
    const shared_address stages = gradients + rows * D * 2;
    const int head = blockIdx.y, kv_head = head / (z.heads / z.kv_heads), warp = threadIdx.x / 32;
    const int block = (gridDim.x - 1 - blockIdx.x) * rows, block_last = min(block + rows, z.tokens) - 1;
    const int own = block + warp * 16 * M;
    const Lane<D> lane(threadIdx.x % 32);
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
    const unsigned mine = warp * (16 * M * D * 2);
    k += kv_head * D;
    v += kv_head * D;

    const int begin = first[block];
    copy_rows<D, rows>(queries, q + head * D, z.q_stride, block, z.tokens);
    copy_rows<D, rows>(gradients, go + head * D, z.o_stride, block, z.tokens);
    copy_rows<D, tile_rows>(stages, k, z.k_stride, begin, z.tokens);
    copy_rows<D, tile_rows>(stages + tile_bytes, v, z.v_stride, begin, z.tokens);
    copy_commit();

    // In shared memory for want of registers.
    static_assert(rows == THREADS, "a row is a thread's");
    const int query = block + threadIdx.x;
    const long long at_query = static_cast<long long>(head) * z.tokens + query;
    log_sums[threadIdx.x] = query < z.tokens ? lse[at_query] * LOG2_E : 0.0f;
    deltas[threadIdx.x] = query < z.tokens ? delta[at_query] : 0.0f;
    firsts[threadIdx.x] = query < z.tokens ? first[query] : NEVER;
    const int* const own_firsts = firsts + warp * 16 * M;

    float sums[M][D / 8][4];
    clear(sums);

    unsigned stage = 0;
    for (int tile = begin; tile <= block_last; tile += tile_rows, stage ^= 1) {
        copy_wait<0>();
        // The tile is there for all, and all are done with the one before, whose place the next one takes.
        __syncthreads();
        const shared_address keys = stages + stage * (2 * tile_bytes), values = keys + tile_bytes;
        if (tile + tile_rows <= block_last) {
            const shared_address next = stages + (stage ^ 1) * (2 * tile_bytes);
            copy_rows<D, tile_rows>(next, k, z.k_stride, tile + tile_rows, z.tokens);
            copy_rows<D, tile_rows>(next + tile_bytes, v, z.v_stride, tile + tile_rows, z.tokens);
        }
        copy_commit();
        if (tile >= own + 16 * M || tile + tile_rows <= own_firsts[0]) continue;

        float scores[M][N][4], others[M][N][4];
        clear(scores);
        multiply<D, M, N>(scores, queries + mine, keys, lane);
        const bool masked = tile + tile_rows - 1 > own || tile < own_firsts[16 * M - 1];
        if (z.softcap > 0.0f) {
            weigh_rows<true, M, N>(scores, log_sums + warp * 16 * M + row, z);
        } else {
            weigh_rows<false, M, N>(scores, log_sums + warp * 16 * M + row, z);
        }
        if (masked) hide<M, N>(scores, 0.0f, own_firsts + row, own + row, tile + column);
        // The subtraction of delta costs nothing where the sum begins.
#pragma unroll
        for (int m = 0; m < M; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float minus = -deltas[warp * 16 * M + m * 16 + half * 8 + row];
#pragma unroll
                for (int n = 0; n < N; ++n) others[m][n][2 * half] = others[m][n][2 * half + 1] = minus;
            }
        }
        multiply<D, M, N>(others, gradients + mine, values, lane);
#pragma unroll
        for (int m = 0; m < M; ++m) {
#pragma unroll
            for (int n = 0; n < N; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) scores[m][n][i] *= others[m][n][i];
            }
        }
        Weights<M, N> weights;
        weights.take(scores);
        accumulate<D, M, N>(sums, weights, keys, lane);
    }
    float factors[M][2];
#pragma unroll
    for (int m = 0; m < M; ++m) factors[m][0] = factors[m][1] = z.scale;
    store_rows<D, M>(sums, factors, queries + mine, dq + head * D, dq_stride, own, z.tokens);
}

template <int D> struct Keys {
    static constexpr int M = D == 64 ? 2 : 1, N = 4, rows = 64 * M, tile = 8 * N;
};

// launch: for 64: grid (ceil(tokens / 128), kv_heads); for 128: grid (ceil(tokens / 64), kv_heads); 128 threads.
// shared: 48 KiB for 64, 64 KiB for 128: keys and values [128 or 64, D], two tiles of queries and of gradients [32, D].
template <int D>
__device__ __forceinline__ void attention_backward_keys(const bf16* q, const bf16* k, const bf16* v, const bf16* go, const float* lse, const float* delta,
                                                        const int* first, const int* last, bf16* dk, bf16* dv, int dk_stride, int dv_stride,
                                                        const AttentionSizes& z)
{
    constexpr int M = Keys<D>::M, N = Keys<D>::N, rows = Keys<D>::rows, tile_rows = Keys<D>::tile;
    constexpr unsigned tile_bytes = tile_rows * D * 2;
    DYNAMIC_SHARED(unsigned char, shared);
    SHARED(float, log_sums, 2 * tile_rows);
    SHARED(float, deltas, 2 * tile_rows);
    SHARED(int, firsts, 2 * tile_rows);
    const shared_address keys = address_of(shared), values = keys + rows * D * 2;
    // Of each stage: queries, then gradients.
    const shared_address stages = values + rows * D * 2;
    const int kv_head = blockIdx.y, group = z.heads / z.kv_heads, warp = threadIdx.x / 32;
    const int block = blockIdx.x * rows;
    const int own = block + warp * 16 * M, own_end = own + 16 * M;
    const Lane<D> lane(threadIdx.x % 32);
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
    const unsigned mine = warp * (16 * M * D * 2);
    // The last query that sees a key never lies before that of an earlier key.
    const int last_query = last[min(block + rows, z.tokens) - 1];
    const int own_last = own < z.tokens ? last[min(own_end, z.tokens) - 1] : -1;
    const int head_end = (kv_head + 1) * group;

    const auto bring = [&](unsigned stage, int head, int tile) {
        const shared_address to = stages + stage * (2 * tile_bytes);
        copy_rows<D, tile_rows>(to, q + head * D, z.q_stride, tile, z.tokens);
        copy_rows<D, tile_rows>(to + tile_bytes, go + head * D, z.o_stride, tile, z.tokens);
        if (threadIdx.x < tile_rows) {
            const int query = tile + threadIdx.x, at = stage * tile_rows + threadIdx.x;
            const bool exists = query < z.tokens;
            const long long from = static_cast<long long>(head) * z.tokens + query;
            log_sums[at] = exists ? lse[from] * LOG2_E : 0.0f;
            deltas[at] = exists ? delta[from] : 0.0f;
            // A query beyond the tokens sees no key.
            firsts[at] = exists ? first[query] : NEVER;
        }
    };
    copy_rows<D, rows>(keys, k + kv_head * D, z.k_stride, block, z.tokens);
    copy_rows<D, rows>(values, v + kv_head * D, z.v_stride, block, z.tokens);
    bring(0, kv_head * group, block);
    copy_commit();

    float key_sums[M][D / 8][4], value_sums[M][D / 8][4];
    clear(key_sums);
    clear(value_sums);
    unsigned stage = 0;
    // All tiles of the first query head of the group, then those of the next.
    for (int head = kv_head * group, next_tile = block; head < head_end; stage ^= 1) {
        const int tile = next_tile;
        next_tile = tile + tile_rows;
        if (next_tile > last_query) {
            next_tile = block;
            ++head;
        }
        copy_wait<0>();
        __syncthreads();
        if (head < head_end) bring(stage ^ 1, head, next_tile);
        copy_commit();
        if (tile + tile_rows <= own || tile > own_last) continue;

        const shared_address queries = stages + stage * (2 * tile_bytes), gradients = queries + tile_bytes;
        float scores[M][N][4], others[M][N][4];
        clear(scores);
        multiply<D, M, N>(scores, keys + mine, queries, lane);
        // The last query of the tile sees the fewest of the early keys.
        const bool masked = own_end - 1 > tile || firsts[stage * tile_rows + tile_rows - 1] > own;
        const int at = stage * tile_rows + column;
        if (masked) hide_columns<M, N>(scores, firsts + at, tile + column, own + row);
        Weights<M, N> weights;
        if (z.softcap > 0.0f) {
            weigh_columns<true, M, N>(scores, weights, log_sums + at, z);
        } else {
            weigh_columns<false, M, N>(scores, weights, log_sums + at, z);
        }
        accumulate<D, M, N>(value_sums, weights, gradients, lane);
        // The subtraction of delta costs nothing where the sum begins.
#pragma unroll
        for (int n = 0; n < N; ++n) {
            const float2 both = *reinterpret_cast<const float2*>(deltas + at + n * 8);
#pragma unroll
            for (int m = 0; m < M; ++m) {
#pragma unroll
                for (int j = 0; j < 4; ++j) others[m][n][j] = j % 2 == 0 ? -both.x : -both.y;
            }
        }
        multiply<D, M, N>(others, values + mine, gradients, lane);
#pragma unroll
        for (int m = 0; m < M; ++m) {
#pragma unroll
            for (int n = 0; n < N; ++n) {
#pragma unroll
                for (int j = 0; j < 4; ++j) scores[m][n][j] *= others[m][n][j];
            }
        }
        weights.take(scores);
        accumulate<D, M, N>(key_sums, weights, queries, lane);
    }
    float factors[M][2];
#pragma unroll
    for (int m = 0; m < M; ++m) factors[m][0] = factors[m][1] = z.scale;
    store_rows<D, M>(key_sums, factors, keys + mine, dk + kv_head * D, dk_stride, own, z.tokens);
#pragma unroll
    for (int m = 0; m < M; ++m) factors[m][0] = factors[m][1] = 1.0f;
    store_rows<D, M>(value_sums, factors, values + mine, dv + kv_head * D, dv_stride, own, z.tokens);
}

// head_dim is the one of the name.
#define ATTENTION(D)                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(128)                                                                                        \
        attention_mma_forward_##D(const bf16* q, const bf16* k, const bf16* v, bf16* o, float* lse, const int* first, int tokens, int heads, \
                                  int kv_heads, int /*head_dim*/, int q_stride, int k_stride, int v_stride, int o_stride, float scale,       \
                                  float softcap)                                                                                             \
    {                                                                                                                                        \
        const AttentionSizes sizes{tokens, heads, kv_heads, q_stride, k_stride, v_stride, o_stride, scale, softcap};                         \
        attention_forward<D>(q, k, v, o, lse, first, sizes);                                                                                 \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(128)                                                                                        \
        attention_mma_backward_queries_##D(const bf16* q, const bf16* k, const bf16* v, const bf16* go, const float* lse,                    \
                                           const float* delta, const int* first, bf16* dq, int tokens, int heads, int kv_heads,              \
                                           int /*head_dim*/, int q_stride, int k_stride, int v_stride, int o_stride, int dq_stride,          \
                                           float scale, float softcap)                                                                       \
    {                                                                                                                                        \
        const AttentionSizes sizes{tokens, heads, kv_heads, q_stride, k_stride, v_stride, o_stride, scale, softcap};                         \
        attention_backward_queries<D>(q, k, v, go, lse, delta, first, dq, dq_stride, sizes);                                                 \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(128)                                                                                        \
        attention_mma_backward_keys_##D(const bf16* q, const bf16* k, const bf16* v, const bf16* go, const float* lse, const float* delta,   \
                                        const int* first, const int* last, bf16* dk, bf16* dv, int tokens, int heads, int kv_heads,          \
                                        int /*head_dim*/, int q_stride, int k_stride, int v_stride, int o_stride, int dk_stride,             \
                                        int dv_stride, float scale, float softcap)                                                           \
    {                                                                                                                                        \
        const AttentionSizes sizes{tokens, heads, kv_heads, q_stride, k_stride, v_stride, o_stride, scale, softcap};                         \
        attention_backward_keys<D>(q, k, v, go, lse, delta, first, last, dk, dv, dk_stride, dv_stride, sizes);                               \
    }
ATTENTION(64)
ATTENTION(128)

#endif
