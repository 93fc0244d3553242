-- The accounts: what Supabase's auth server keeps of users and sessions, where
-- there is none, and the tables of chatbot-ui that hold profiles and models.
--
-- Nothing here touches a database that has chatbot-ui's own schema, and every
-- statement can be run again.

do $$
begin
  if to_regclass('public.profiles') is not null then
    raise notice 'public.profiles exists already: nothing is changed';
    return;
  end if;

  -- A stand-in for Supabase's auth schema. On Supabase it exists, belongs to
  -- another role, and "create … if not exists" is refused too: so ask first.
  if to_regclass('auth.users') is null then
    create schema if not exists auth;

    create table auth.users (
      id uuid primary key,
      instance_id uuid default '00000000-0000-0000-0000-000000000000',
      aud varchar(255) default 'authenticated',
      role varchar(255) default 'authenticated',
      email varchar(255) unique,
      banned_until timestamptz,
      deleted_at timestamptz,
      is_anonymous boolean not null default false,
      created_at timestamptz not null default now()
    );

    create table auth.sessions (
      id uuid primary key,
      user_id uuid not null references auth.users (id) on delete cascade,
      created_at timestamptz not null default now(),
      not_after timestamptz
    );
    create index sessions_user_id on auth.sessions (user_id);

    alter table auth.users enable row level security;
    alter table auth.sessions enable row level security;

    -- The user of a PostgREST request, for the policies below.
    create function auth.uid() returns uuid
    language sql stable as $uid$
      select nullif(coalesce(
        current_setting('request.jwt.claim.sub', true),
        current_setting('request.jwt.claims', true)::jsonb ->> 'sub'
      ), '')::uuid
    $uid$;
  end if;

  -- Supabase's roles. They belong to the whole server, so another database may
  -- have made them, and whoever may make tables need not be one who may make roles.
  begin
    if to_regrole('anon') is null then
      create role anon nologin noinherit;
    end if;
    if to_regrole('authenticated') is null then
      create role authenticated nologin noinherit;
    end if;
    if to_regrole('service_role') is null then
      create role service_role nologin noinherit;
    end if;
  exception
    when duplicate_object or unique_violation then null;
    when insufficient_privilege then
      raise notice 'Supabase''s roles are not made: PostgREST will not work here, this server will';
  end;

  create table public.profiles (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null unique references auth.users (id) on delete cascade,
    created_at timestamptz not null default current_timestamp,
    updated_at timestamptz,
    bio text not null check (char_length(bio) <= 500),
    has_onboarded boolean not null default false,
    image_url text not null check (char_length(image_url) <= 1000),
    image_path text not null check (char_length(image_path) <= 1000),
    profile_context text not null check (char_length(profile_context) <= 1500),
    display_name text not null check (char_length(display_name) <= 100),
    use_azure_openai boolean not null,
    username text not null unique check (char_length(username) between 3 and 25),
    anthropic_api_key text check (char_length(anthropic_api_key) <= 1000),
    azure_openai_35_turbo_id text check (char_length(azure_openai_35_turbo_id) <= 1000),
    azure_openai_45_turbo_id text check (char_length(azure_openai_45_turbo_id) <= 1000),
    azure_openai_45_vision_id text check (char_length(azure_openai_45_vision_id) <= 1000),
    azure_openai_api_key text check (char_length(azure_openai_api_key) <= 1000),
    azure_openai_endpoint text check (char_length(azure_openai_endpoint) <= 1000),
    google_gemini_api_key text check (char_length(google_gemini_api_key) <= 1000),
    mistral_api_key text check (char_length(mistral_api_key) <= 1000),
    openai_api_key text check (char_length(openai_api_key) <= 1000),
    openai_organization_id text check (char_length(openai_organization_id) <= 1000),
    perplexity_api_key text check (char_length(perplexity_api_key) <= 1000),
    openrouter_api_key text check (char_length(openrouter_api_key) <= 1000),
    azure_openai_embeddings_id text check (char_length(azure_openai_embeddings_id) <= 1000),
    groq_api_key text check (char_length(groq_api_key) <= 1000)
  );

  create table public.models (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references auth.users (id) on delete cascade,
    -- chatbot-ui's folders are not among this server's tables.
    folder_id uuid,
    created_at timestamptz not null default current_timestamp,
    updated_at timestamptz,
    sharing text not null default 'private',
    api_key text not null check (char_length(api_key) <= 1000),
    base_url text not null check (char_length(base_url) <= 1000),
    description text not null check (char_length(description) <= 500),
    model_id text not null check (char_length(model_id) <= 1000),
    name text not null check (char_length(name) <= 100),
    context_length integer not null default 4096
  );
  create index models_user_id on public.models (user_id);

  create function public.chatbot_ui_api_updated_at() returns trigger
  language plpgsql as $update$
  begin
    new.updated_at = now();
    return new;
  end
  $update$;
  create trigger update_profiles_updated_at before update on public.profiles
    for each row execute function public.chatbot_ui_api_updated_at();
  create trigger update_models_updated_at before update on public.models
    for each row execute function public.chatbot_ui_api_updated_at();

  alter table public.profiles enable row level security;
  alter table public.models enable row level security;
  create policy "own profile" on public.profiles
    using (user_id = auth.uid()) with check (user_id = auth.uid());
  create policy "own models" on public.models
    using (user_id = auth.uid()) with check (user_id = auth.uid());
  create policy "shared models" on public.models
    for select using (sharing <> 'private');

  if to_regrole('anon') is not null and to_regrole('authenticated') is not null and to_regrole('service_role') is not null then
    grant usage on schema public to anon, authenticated, service_role;
    grant select, insert, update, delete on public.profiles, public.models
      to anon, authenticated, service_role;
  end if;

  -- Whoever signs up has a profile, as in chatbot-ui. As there, it runs with
  -- the rights of the table's owner, since the auth server has none here.
  create function public.chatbot_ui_api_create_profile() returns trigger
  language plpgsql security definer set search_path = '' as $create$
  begin
    insert into public.profiles (
      user_id, username, display_name, bio, image_url, image_path, profile_context, use_azure_openai,
      anthropic_api_key, azure_openai_35_turbo_id, azure_openai_45_turbo_id, azure_openai_45_vision_id,
      azure_openai_api_key, azure_openai_endpoint, google_gemini_api_key, mistral_api_key,
      openai_api_key, openai_organization_id, perplexity_api_key
    ) values (
      new.id, 'user' || left(replace(gen_random_uuid()::text, '-', ''), 16), '', '', '', '', '', false,
      '', '', '', '', '', '', '', '', '', '', ''
    );
    return new;
  end
  $create$;
  create trigger create_profile after insert on auth.users
    for each row execute function public.chatbot_ui_api_create_profile();
end
$$;
