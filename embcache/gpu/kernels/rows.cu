// Rows and their dtypes: four elements at a time from an encoded row to f32, and from f32 to the wire's form.
// The roundings are those of the host's kernels (embcache/host/rows.py), so that every tier answers the same bits: no
// multiplication is fused with an addition, and finite values beyond a dtype's range become its largest.
#define F32 0u
#define F16 1u
#define BF16 2u
#define Q8 3u
#define LARGEST 3.4028234663852886e38f
#define HALF_OF_LARGEST 1.7014117331926443e38f
#define LARGEST_F16 65504.0f

struct Float4 {
    float v[4];
};

__device__ __forceinline__ float bf16_to_f32(u32 bits) { return __uint_as_float(bits << 16); }

__device__ __forceinline__ u32 f32_to_bf16(float value) {
    const u32 bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
    if (magnitude >= 0x7f800000u) return sign | (magnitude == 0x7f800000u ? 0x7f80u : 0x7fc0u);
    const u32 rounded = (magnitude + 0x7fffu + (magnitude >> 16 & 1u)) >> 16;
    return sign | (rounded > 0x7f7fu ? 0x7f7fu : rounded);
}

__device__ __forceinline__ u32 f32_to_f16_saturated(float value) {
    if (fabsf(value) <= LARGEST) value = fminf(fmaxf(value, -LARGEST_F16), LARGEST_F16);
    return f32_to_f16(value);
}

__device__ __forceinline__ u32 elements_of(u32 dim) { return (dim + 3u) / 4u; }

// Elements [4 q, 4 q + 4) of an encoded row. Those beyond its dim are whatever fills the row up to its stride.
__device__ __forceinline__ Float4 decode_4(u32 stored, const u8* row, u32 q) {
    Float4 e;
    if (stored == F32) {
        const uint4 w = load_relaxed((const uint4*)row + q);
        e.v[0] = __uint_as_float(w.x), e.v[1] = __uint_as_float(w.y);
        e.v[2] = __uint_as_float(w.z), e.v[3] = __uint_as_float(w.w);
    } else if (stored == Q8) {
        const float scale = __uint_as_float(load_4((const u32*)row)), bias = __uint_as_float(load_4((const u32*)row + 1));
        const u32 codes = load_4((const u32*)row + 2u + q);
        for (u32 j = 0; j < 4u; j++) e.v[j] = __fadd_rn(__fmul_rn((float)(codes >> 8u * j & 255u), scale), bias);
    } else {
        const uint2 w = load_8((const uint2*)row + q);
        const u32 bits[4] = {w.x & 0xffffu, w.x >> 16, w.y & 0xffffu, w.y >> 16};
        for (u32 j = 0; j < 4u; j++) e.v[j] = stored == F16 ? f16_to_f32((u16)bits[j]) : bf16_to_f32(bits[j]);
    }
    return e;
}

// Write elements [4 q, 4 q + 4) of an output row of f32, f16 or bf16; one whose dim is no multiple of 4 may begin at any
// element.
__device__ __forceinline__ void encode_4(u32 wire, u8* out, u32 dim, u32 q, const Float4& e) {
    if (wire == F32) {
        u32* to = (u32*)out + 4u * q;
        if (dim % 4u == 0) {
            store_16((uint4*)to, make_uint4(__float_as_uint(e.v[0]), __float_as_uint(e.v[1]), __float_as_uint(e.v[2]),
                                            __float_as_uint(e.v[3])));
        } else {
            for (u32 j = 0; j < 4u && 4u * q + j < dim; j++) store_4(to + j, __float_as_uint(e.v[j]));
        }
        return;
    }
    u32 bits[4];
    for (u32 j = 0; j < 4u; j++) bits[j] = wire == F16 ? f32_to_f16_saturated(e.v[j]) : f32_to_bf16(e.v[j]);
    u16* to = (u16*)out + 4u * q;
    if (dim % 4u == 0) {
        store_8((uint2*)to, make_uint2(bits[0] | bits[1] << 16, bits[2] | bits[3] << 16));
    } else {
        for (u32 j = 0; j < 4u && 4u * q + j < dim; j++) store_2(to + j, (u16)bits[j]);
    }
}

// How a row of f32 becomes q8, see `quantise` of the host's kernels.
struct Scale {
    float low, scale, limit;
};

__device__ __forceinline__ Scale scale_of(float low, float high) {
    float limit = LARGEST;
    if (__fsub_rn(high, low) > LARGEST) {
        limit = HALF_OF_LARGEST;
        low = fmaxf(low, -limit), high = fminf(high, limit);
    }
    return {low, __fdiv_rn(__fsub_rn(high, low), 255.0f), limit};
}

__device__ __forceinline__ u32 code_of(const Scale& s, float value) {
    if (!(s.scale > 0.0f)) return 0u;
    value = fminf(fmaxf(value, -s.limit), s.limit);
    return (u32)fminf(fmaxf(rintf(__fdiv_rn(__fsub_rn(value, s.low), s.scale)), 0.0f), 255.0f);
}

__device__ __forceinline__ void encode_codes(u8* out, u32 dim, u32 q, const Scale& s, const Float4& e) {
    u32 codes[4];
    for (u32 j = 0; j < 4u; j++) codes[j] = 4u * q + j < dim ? code_of(s, e.v[j]) : 0u;
    if (dim % 4u == 0) {
        store_4((u32*)out + q, codes[0] | codes[1] << 8 | codes[2] << 16 | codes[3] << 24);
    } else {
        for (u32 j = 0; j < 4u && 4u * q + j < dim; j++) store_1(out + 4u * q + j, (u8)codes[j]);
    }
}

// The least and the largest of a warp's values, in every lane.
__device__ __forceinline__ void extremes(float& low, float& high) {
    for (i32 x = 16; x; x >>= 1) {
        low = fminf(low, __shfl_xor_sync(FULL, low, x));
        high = fmaxf(high, __shfl_xor_sync(FULL, high, x));
    }
}

// A warp writes one output row: `values(q)` are elements [4 q, 4 q + 4) as f32. Asked twice for each q where wire is q8.
template <class Values>
__device__ __forceinline__ void express_row(u32 wire, u32 dim, u32 lane, u8* out, u32* scale_at, u32* bias_at,
                                            const Values& values) {
    const u32 count = elements_of(dim);
    if (wire != Q8) {
        for (u32 q = lane; q < count; q += 32u) encode_4(wire, out, dim, q, values(q));
        return;
    }
    float low = __uint_as_float(0x7f800000u), high = __uint_as_float(0xff800000u);
    for (u32 q = lane; q < count; q += 32u) {
        const Float4 e = values(q);
        for (u32 j = 0; j < 4u && 4u * q + j < dim; j++) low = fminf(low, e.v[j]), high = fmaxf(high, e.v[j]);
    }
    extremes(low, high);
    const Scale s = scale_of(low, high);
    if (lane == 0) store_4(scale_at, __float_as_uint(s.scale)), store_4(bias_at, __float_as_uint(s.low));
    for (u32 q = lane; q < count; q += 32u) encode_codes(out, dim, q, s, values(q));
}
